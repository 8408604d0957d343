"""How sources fill arrays: from batches with an image a row, or from image files; and their labels. No torch."""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trust_exp.data.numpy_files import check_keys
from trust_exp.data.readers.files import content
from trust_exp.data.readers.pickles import load_pickled_arrays
from trust_exp.errors import UserError
from trust_exp.progress import Bar

SIDE = 32  # of the images in batches
ROW = 3 * SIDE * SIDE
CHUNK = 64
THREADS = 4  # small images are decoded no faster than by one; but a disk in the network lets each file wait


def load_batch(path: Path, *keys: str) -> dict[str, Any]:
    """The contents of a pickled batch by name.

    Raises:
        UserError: if it is damaged, or lacks one of ``keys``.
    """
    batch = load_pickled_arrays(path)
    check_keys(path, keys, batch)
    return batch


def from_rows(rows: Any, path: Path) -> np.ndarray:
    """Images uint8 [N, 3, 32, 32] from a batch's uint8 [N, 3072]: all red, all green, all blue.

    Raises:
        UserError: if the batch is not of that form, or empty.
    """
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != ROW:
        raise UserError(f"{path} holds {described(rows)} under data; images are uint8 [N, {ROW}]")
    if not len(rows):
        raise UserError(f"{path} has no images at all")
    return rows.reshape(-1, 3, SIDE, SIDE)


def read_labels(labels: Any, images: int, classes: int, path: Path, *, first: int = 0) -> np.ndarray:
    """Labels counted from 0, as uint8 [N], or int16 if there are more than 256 classes.

    Args:
        labels: a sequence of whole numbers, ``first`` to ``first + classes - 1``.
        images: how many there must be.
        path: of the file, for messages.

    Raises:
        UserError: if they are anything else.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise UserError(f"{path} holds {described(labels)} as labels; they are whole numbers, one for each image")
    if len(given) != images:
        raise UserError(f"{path} has {len(given)} labels for {images} images")
    wrong = given[(given < first) | (given > first + classes - 1)]
    if len(wrong):
        raise UserError(f"{path} has the label {wrong[0]}; labels are {first} to {first + classes - 1}")
    return (given.astype(np.int64) - first).astype(np.uint8 if classes <= 256 else np.int16)


def described(value: Any) -> str:
    """A value that should be an array in a few words, for messages."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def decode(paths: Sequence[Path], images: np.ndarray) -> Counter[str]:
    """Read image files into ``images`` (uint8 [N, 3, H, W]).

    Returns:
        How many were stored as something else than RGB, e.g. ``{"grey": 12}``.

    Raises:
        UserError: for the first file in order that is damaged, of another size, or has more than 8 bits a channel.
    """

    def some(start: int) -> list[str]:
        kinds = []
        for row in range(start, min(start + CHUNK, len(paths))):
            pixels, kind = _read(paths[row], *images.shape[2:])
            images[row] = pixels.transpose(2, 0, 1)
            kinds += [kind] if kind else []
        return kinds

    converted: Counter[str] = Counter()
    pool = ThreadPoolExecutor(THREADS)
    try:
        with contextlib.closing(Bar("decode images", len(paths))) as bar:
            starts = range(0, len(paths), CHUNK)
            for start, kinds in zip(starts, pool.map(some, starts), strict=True):
                converted.update(kinds)
                bar.update(start)
    finally:
        pool.shutdown(cancel_futures=True)
    return converted


def _read(path: Path, height: int, width: int) -> tuple[np.ndarray, str | None]:
    from PIL import Image

    from trust_exp.data.readers.images import CONVERTED, read_rgb  # here, as listing sources needs no PIL

    stored = content(path)
    pixels = read_rgb(stored, str(path))
    if pixels.shape != (height, width, 3):
        raise UserError(
            f"{path} is {pixels.shape[1]} by {pixels.shape[0]} pixels; the images of this set are {width} by {height}"
        )
    return pixels, CONVERTED.get(Image.open(io.BytesIO(stored)).mode)


def distinct(names: Sequence[str], identifiers: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, with its identifier added where several classes have the same."""
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name} ({identifier})"
        for name, identifier in zip(names, identifiers, strict=True)
    )
