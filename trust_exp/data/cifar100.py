"""CIFAR-100 with the labels of its 100 classes or of their 20 super-classes."""

from dataclasses import replace
from typing import Any

import torch

from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.module import PreparedDataModule
from trust_exp.data.super_classes import COARSE


class Cifar100(PreparedDataModule):
    """Images uint8 [N, 3, 32, 32] with one of two kinds of labels (Krizhevsky 2009).

    Args:
        labels: ``fine`` or ``coarse``.
        common: see ``PreparedDataModule``.
    """

    def __init__(self, name: str, *, labels: str = "fine", **common: Any) -> None:
        super().__init__(name, **common)
        self.coarse = labels == "coarse"

    def describe(self) -> DatasetInfo:
        info = super().describe()
        return replace(info, classes=COARSE) if self.coarse else info

    def load(self, split: Split) -> Arrays:
        arrays = super().load(split)
        if not self.coarse:
            return arrays
        return Arrays(arrays.images, torch.from_numpy(self.prepared.open(split)["coarse"]).long())
