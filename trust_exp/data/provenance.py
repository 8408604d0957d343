"""Facts that tie a file with numbers of samples to its data. No torch."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from trust_exp.errors import UserError, quoted

CHUNK = 1024


def split_facts(name: str, labels: np.ndarray, *more: np.ndarray) -> dict[str, Any]:
    """Facts that tell the samples of a whole training split from those of another one.

    Args:
        name: of the data set.
        labels: of all samples, served or not, [N, ...].
        more: labels of other kinds, such as boxes.
    """
    digest = hashlib.sha256()
    for array in (labels, *more):
        for start in range(0, len(array), CHUNK):  # the maps of a whole split take gigabytes as int64
            chunk = array[start : start + CHUNK]
            digest.update((chunk.astype("<i8") if chunk.dtype.kind in "biu" else chunk).tobytes())
    return {"name": name, "samples": len(labels), "labels": digest.hexdigest()}


def check_same(what: str, stored: Mapping[str, Any], here: Mapping[str, Any], fix: str) -> None:
    """Raise UserError, ending with ``fix``, if the ``stored`` facts of ``what`` differ from those ``here``."""
    for key in ("name", "samples", "labels"):
        if (found := stored.get(key)) != here[key]:
            raise UserError(
                f"{what} was made for other data: its {key} is {quoted(found)}, here it is {here[key]!r}; {fix}"
            )
