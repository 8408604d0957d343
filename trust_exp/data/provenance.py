"""Which data a file with numbers of samples is about: facts in it, compared with those at hand. No torch."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from trust_exp.errors import UserError


def split_facts(name: str, labels: np.ndarray) -> dict[str, Any]:
    """What tells the samples of a whole training split from those of another one.

    Args:
        name: of the data set.
        labels: of all samples, served or not, int [N, ...].
    """
    return {
        "name": name,
        "samples": len(labels),
        "labels": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
    }


def check_same(what: str, told: Mapping[str, Any], here: Mapping[str, Any], fix: str) -> None:
    """Raise UserError, ending with ``fix``, if ``what`` was made for other data: ``told`` of it, ``here`` at hand."""
    for key in ("name", "samples", "labels"):
        if told.get(key) != here[key]:
            raise UserError(
                f"{what} was made for other data: its {key} is {told.get(key)!r}, here it is {here[key]!r}; {fix}"
            )
