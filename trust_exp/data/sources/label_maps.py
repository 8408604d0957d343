"""Common to sources with label maps: maps in files, labels that overlap, many files at once. No torch."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from trust_exp.data.config import NOTHING, UNKNOWN
from trust_exp.data.readers.images import read_labels
from trust_exp.errors import UserError
from trust_exp.progress import track

T = TypeVar("T")
R = TypeVar("R")


def read_map(path: Path, size: tuple[int, int], most: int, *, also: Sequence[int] = ()) -> np.ndarray:
    """A label map of one number a pixel, uint8 or uint16 [H, W].

    Args:
        path: a PNG file.
        size: height and width that it must have.
        most: its greatest number.
        also: numbers beyond it that are allowed too.

    Raises:
        UserError: if it is anything else, naming the file.
    """
    labels = read_labels(path)
    if labels.ndim != 2:
        raise UserError(f"{path} is a picture in colours; a label map holds one number a pixel, 0 to {most}")
    if labels.shape != size:
        raise UserError(f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels and its image {size[1]}x{size[0]}")
    if labels.max() > most and (wrong := sorted(set(np.unique(labels[labels > most]).tolist()) - set(also))):
        raise UserError(f"{path} has the label {wrong[0]}; labels are 0 to {most}")
    return labels


def put_labels(layers: list[np.ndarray], labels: np.ndarray, background: int = NOTHING) -> None:
    """Add labels to those that pixels have: each goes to the first layer that is free there, or to a new one.

    So after any number of calls the layers hold, for every pixel, each of its labels once.

    Args:
        layers: int16 [H, W] each, negative where they are free; changed in place.
        labels: int16 [H, W], negative where there is none.
        background: of a new layer.
    """
    left = labels >= 0
    for layer in layers:
        left &= layer != labels
        free = left & (layer < 0)
        layer[free] = labels[free]
        left &= ~free
    if left.any():
        layers.append(np.where(left, labels, np.int16(background)))


def unknown_map(size: tuple[int, int]) -> np.ndarray:
    """A map that says nothing, int16 [H, W]."""
    return np.full(size, UNKNOWN, np.int16)


def for_each(items: Sequence[T], function: Callable[[T], R], what: str) -> list[R]:
    """Results of ``function`` for the items, in threads and under a progress bar.

    Raises:
        UserError: of the first item in order for which it does.
    """
    pool = ThreadPoolExecutor()
    try:
        results = pool.map(function, items)
        return [next(results) for _ in track(items, what)]
    finally:
        pool.shutdown(cancel_futures=True)


def as_rows(rows: Sequence[Sequence[str | Path]]) -> np.ndarray:
    """Rows of K file names each as an array, bytes [N, K]."""
    return np.array([[os.fsencode(name) for name in row] for row in rows])
