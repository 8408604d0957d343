"""Which samples of a data set are served: by class, by a file of numbers, by fraction."""

import json
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.config import EACH
from trust_exp.data.numpy_files import load_npy
from trust_exp.data.provenance import check_same, split_facts
from trust_exp.errors import UserError, unknown
from trust_exp.parsing import parse_json
from trust_exp.rng import keyed_generator
from trust_exp.tasks import TASKS

ATTACKED = "attacked.txt"  # the index file that a run writes
OF_DATA = "# samples of "  # the first line of an index file may begin so; the facts of its data follow as JSON


class Subset:
    """A choice among the samples of a data set.

    Args:
        classes: only these, by name or number, renumbered in this order; in all splits.
        index_file: only the training samples that this file lists, see ``read_index``.
        fraction: only the first samples of each class (of all samples, if they have no class), this fraction of them.
        normal: the classes that are normal, by name or number, for one model; or ``each``: every class for a model of
            its own.

    Raises:
        UserError: from the methods, if a class or a number does not exist, or the file cannot be read or belongs to
            other data.
    """

    def __init__(
        self,
        classes: list[str] | None = None,
        index_file: str | Path | None = None,
        fraction: float | None = None,
        normal: list[str] | None = None,
    ) -> None:
        self.classes, self.index_file, self.fraction, self.normal = classes, index_file, fraction, normal

    def narrow(self, info: DatasetInfo) -> DatasetInfo:
        """``info`` with the chosen classes only, and what is normal among them."""
        if self.classes is not None:
            info = replace(info, classes=tuple(info.classes[label] for label in self._numbers(info)))
        if self.normal is None:
            return info
        return replace(info, task="anomaly", normal=normals_among(info, self.normal))

    def normals(self, info: DatasetInfo) -> tuple[tuple[int, ...], ...]:
        """For each model the classes that are normal for it, numbered as in ``info``, the whole data set's."""
        if self.normal is None:
            return info.normal
        numbers = range(len(info.classes)) if self.classes is None else self._numbers(info)
        return tuple(tuple(numbers[number] for number in own) for own in self.narrow(info).normal)

    def rows(
        self,
        split: Split,
        labels: Tensor,
        info: DatasetInfo,
        among: Tensor | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The chosen rows of a split, int64 [M], increasing, for labels int64 [N] (or [N, ...] without classes).

        Args:
            among: choose among these rows only, int64; None: all.
            facts: that an index file must agree with, see ``split_facts``; None: those of ``labels``.
        """
        kept = torch.ones(len(labels), dtype=torch.bool)
        if among is not None:
            kept = torch.zeros_like(kept).index_fill(0, among, True)
        if self.classes is not None:
            if labels.dim() != 1 or info.task != "classification":
                raise UserError(
                    f"dataset.classes needs {TASKS['classification']}; dataset={info.name} has {TASKS[info.task]}"
                )
            kept &= torch.isin(labels, torch.tensor(self._numbers(info)))
        if split == "train" and self.index_file is not None:
            listed = torch.zeros_like(kept)
            listed[read_index(self.index_file, facts or split_facts(info.name, labels.numpy()))] = True
            kept &= listed
        rows = kept.nonzero().squeeze(1)
        if split == "train" and self.fraction is not None:
            rows = rows[balanced_fraction(labels[rows], self.fraction)]
        if not len(rows):
            raise UserError(f"no {split} sample of dataset={info.name} is left; choose more of them")
        return rows

    def renumber(self, arrays: Arrays, info: DatasetInfo) -> Arrays:
        """The same samples with labels numbered among the chosen classes."""
        if self.classes is None:
            return arrays
        return Arrays(arrays.images, self.renumbered(arrays.labels, info), arrays.concepts, arrays.index)

    def renumbered(self, labels: Tensor, info: DatasetInfo) -> Tensor:
        """Labels int64 [N] numbered among the chosen classes; -1 for other classes."""
        if self.classes is None:
            return labels
        place = torch.full((len(info.classes),), -1)
        place[self._numbers(info)] = torch.arange(len(self.classes))
        return place[labels]

    def _numbers(self, info: DatasetInfo) -> list[int]:
        return class_numbers(self.classes or [], info.classes, f"the class of dataset={info.name}", "dataset.classes")


def normals_among(info: DatasetInfo, wanted: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each model the numbers of its normal classes: ``wanted`` are those of one model, or ``each``.

    Raises:
        UserError: if a class does not exist or is named twice, or none is left that is not normal.
    """
    if len(info.classes) < 2:
        raise UserError(f"dataset.normal_class needs another class to test on; dataset={info.name} has one")
    if list(wanted) == [EACH]:
        return tuple((number,) for number in range(len(info.classes)))
    what = f"the class of dataset={info.name}"
    chosen = class_numbers(wanted, info.classes, what, "dataset.normal_class")
    if len(chosen) == len(info.classes):
        raise UserError(f"dataset.normal_class names all {len(chosen)} classes; one at least must not be normal")
    return (tuple(chosen),)


def class_numbers(chosen: Sequence[str], classes: Sequence[str], what: str, key: str) -> list[int]:
    """Numbers of the ``chosen`` among the ``classes``; each is given by its name or its number, counted from 0.

    Where all names are numbers themselves, such as 10, 20, 30, a number is always a name. Unicode has an é in two
    forms: both are the same name.

    Args:
        what: the noun for such a class in messages.
        key: of the option, for messages.

    Raises:
        UserError: if a class does not exist or is named twice.
    """
    numbers = []
    names = [unicodedata.normalize("NFC", name) for name in classes]
    numeric = all(name.isdecimal() for name in names) and names != list(map(str, range(len(names))))
    for given in chosen:
        if (name := unicodedata.normalize("NFC", given)) in names:
            numbers.append(names.index(name))
        elif numeric:
            raise unknown(what, given, classes)
        elif given.isdecimal() and int(given) < len(classes):
            numbers.append(int(given))
        elif given.lstrip("-").isdecimal():
            raise UserError(f"{key} names class {given}; there are 0 to {len(classes) - 1}")
        else:
            raise unknown(what, given, classes)
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{key} names a class twice: {list(chosen)}")
    return numbers


def read_index(path: str | Path, facts: Mapping[str, Any], key: str = "dataset.index_file") -> Tensor:
    """The numbers in a file, int64 [M], each of a sample of a training split.

    Args:
        path: a ``.npy`` array, a text file with one number a line, or the folder of a run that wrote one.
        facts: of the whole split, see ``split_facts``.
        key: of the option, for messages.

    Raises:
        UserError: if the file cannot be read, holds anything else, or was written for other data.
    """
    path = Path(path)
    if path.is_dir():
        path = path / ATTACKED
        if not path.exists():
            raise UserError(f"{key}={path.parent.name} has no {ATTACKED}; a run with method=sat writes one")
    try:
        stored = _facts_in(path)
        with warnings.catch_warnings(action="ignore"):  # numpy warns of a file without numbers
            numbers = load_npy(path) if path.suffix == ".npy" else np.loadtxt(path, np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        reason = str(error).replace(f"{path} ", "it ").splitlines()[0][:300]
        raise UserError(f"{key}={path} cannot be read as whole numbers, one a line: {reason}") from error
    if stored is not None:
        check_same(f"{key}={path}", stored, facts, "make one for these data")
    if not numbers.size:
        raise UserError(f"{key}={path} names no sample")
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(f"{key}={path} must hold whole numbers; it has {numbers.dtype} {numbers.shape}")
    if numbers.min() < 0 or numbers.max() >= facts["samples"]:
        wrong = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise UserError(f"{key}={path} names sample {wrong}; there are 0 to {facts['samples'] - 1}")
    return torch.from_numpy(numbers.astype(np.int64))


def write_index(path: Path, index: Tensor, facts: Mapping[str, Any]) -> None:
    """Write numbers of training samples, int64 [M], as text; the first line identifies their data.

    Args:
        facts: see ``DataModule.sample_facts``.
    """
    part = path.with_suffix(".part")
    part.write_text("\n".join([OF_DATA + json.dumps(facts), *map(str, index.tolist()), ""]), encoding="utf-8")
    part.replace(path)


def _facts_in(path: Path) -> dict[str, Any] | None:
    """The facts about its data in an index file; None if it has none, and then any data will do."""
    with open(path, "rb") as file:
        line = file.readline(2**16)
    if not line.startswith(OF_DATA.encode()):
        return None
    try:
        facts = parse_json(line.removeprefix(OF_DATA.encode()))
    except ValueError as error:
        raise ValueError("the facts about its data in the first line are not JSON") from error
    return facts if isinstance(facts, dict) else {}


def occurrence_in_class(labels: Tensor) -> Tensor:
    """How many earlier samples have the same label, int64 [N], for labels int64 [N]."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    occurrence = torch.empty_like(labels)
    occurrence[order] = torch.arange(len(labels)) - first[labels[order]]
    return occurrence


def balanced_subset(labels: Tensor, limit: int) -> Tensor:
    """Increasing indices, int64 [limit], of the first samples of every class; without classes of the first samples.

    Class sizes differ by at most one, unless a class runs out: then the others fill up.
    """
    if labels.dim() != 1:
        return torch.arange(limit)
    rounds = occurrence_in_class(labels) * (int(labels.max()) + 1) + labels
    return rounds.argsort()[:limit].sort().values


def balanced_fraction(labels: Tensor, fraction: float) -> Tensor:
    """Increasing indices of the first ``fraction`` of each class, rounded to a whole number, at least one."""
    if labels.dim() != 1:
        return torch.arange(max(1, round(fraction * len(labels))))
    counts = (labels.bincount() * fraction).round().clamp(min=1)
    return (occurrence_in_class(labels) < counts[labels]).nonzero().squeeze(1)


def held_out(labels: Tensor, fraction: float, name: str) -> Tensor:
    """Increasing indices of a random ``fraction`` of each class, or without classes of all; the same for every seed.

    The number of each class is rounded; at least one sample is held out and at least one is left. A class with a single
    sample keeps it for training.

    Args:
        labels: of the whole split, int64 [N] or [N, ...].
        name: of the data set, the key of the random numbers.

    Raises:
        UserError: if no class has two samples.
    """
    order = torch.randperm(len(labels), generator=keyed_generator("hold_out", name))
    own = labels[order] if labels.dim() == 1 else torch.zeros(len(labels), dtype=torch.int64)
    counts = own.bincount()
    taken = (counts * fraction).round().clamp(min=1).minimum((counts - 1).clamp(min=0))
    rows = order[occurrence_in_class(own) < taken[own]].sort().values
    if not len(rows):
        raise UserError(f"dataset.hold_out={fraction:g} needs a class with two samples; dataset={name} has none")
    return rows


def long_tail(labels: Tensor, imbalance: float) -> Tensor:
    """Increasing indices of the first samples of each class, such that class sizes fall exponentially.

    Class c of C with n samples keeps n * imbalance^(-c / (C - 1)) of them, rounded to a whole number, at least one.

    Args:
        labels: int64 [N].
        imbalance: fraction kept of the first class over that of the last, at least 1.

    Source: Cui et al. 2019, long-tailed CIFAR.
    """
    counts = labels.bincount()
    place = torch.linspace(0, 1, len(counts), dtype=torch.float64)
    kept = (counts * imbalance**-place).round().clamp(min=1)
    return (occurrence_in_class(labels) < kept[labels]).nonzero().squeeze(1)
