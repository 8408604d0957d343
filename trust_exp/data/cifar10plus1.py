"""CIFAR-10 and an eleventh class that is a super-class of CIFAR-100 (Losch 2024, sec. 3.3.2)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trust_exp.data import store
from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.module import ArrayDataModule, Prepared
from trust_exp.data.super_classes import SUPER_CLASSES, super_class


class CifarPlusOne(ArrayDataModule):
    """CIFAR-10, then the images of the super-class: 50,000 + 2,500 for training, 10,000 + 500 for testing.

    Images are uint8 [N, 3, 32, 32], each set's in its own order; the eleventh class, label 10, has the thesis' name.
    Both sets are prepared, each by its own source, when they are first needed.

    Args:
        extra: the super-class, by the thesis' name (Fig. A.3) or CIFAR-100's.
        made_of: the names of the two sources.
        common: see ``DataModule``.

    Raises:
        UserError: if there is no such super-class; from ``prepare_data`` and ``load``, if data are missing or damaged.
    """

    def __init__(
        self, name: str, *, extra: str, made_of: Sequence[str] = ("cifar10", "cifar100"), **common: Any
    ) -> None:
        super().__init__(name, **common)
        self.extra = super_class(extra)
        self.base, self.hundred = (Prepared(name, self.root) for name in made_of)

    def prepare_data(self) -> None:
        self.base.verify()
        self.hundred.verify()

    def facts(self) -> dict[str, Any]:
        return {prepared.name: prepared.facts() for prepared in (self.base, self.hundred)}

    def describe(self) -> DatasetInfo:
        info = store.read_info(self.base.manifest)
        extra = tuple(SUPER_CLASSES.values())[self.extra].thesis
        return replace(info, name="cifar10plus1", classes=(*info.classes, extra))

    def load(self, split: Split) -> Arrays:
        base, hundred = self.base.open(split), self.hundred.open(split)
        rows = np.flatnonzero(hundred["coarse"] == self.extra)
        images = np.concatenate([base["images"], hundred["images"][rows]])
        labels = torch.full((len(images),), 10)
        labels[: len(base["labels"])] = torch.from_numpy(base["labels"])
        return Arrays(torch.from_numpy(images), labels)
