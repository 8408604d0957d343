"""The LightningDataModule of data sets that fit into memory."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from trust_exp.data.augment import Augment
from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.config import AugmentConfig
from trust_exp.data.loader import ArrayLoader
from trust_exp.errors import UserError


class ArrayDataModule(L.LightningDataModule):
    """Serves a data set from memory; a subclass says what the data are: ``info`` and ``load``.

    Args:
        name: what the user calls the data set, for messages.
        batch_size: of one optimiser step, over all processes.
        eval_batch_size: of one evaluation batch, in one process.
        augment: changes of training images, an AugmentConfig or its fields.
        limit_train, limit_test: at most this many samples, see ``balanced_subset``.
        keep_on_device: hold the arrays in the accelerator's memory where they fit.
        root: folder of all data.
        seed: of the run: order and augmentation, never which samples there are.

    Raises:
        UserError: if data that are no images are to be augmented.
    """

    info: DatasetInfo

    def __init__(
        self,
        name: str,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: AugmentConfig | Mapping[str, Any] | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
        keep_on_device: bool = True,
        root: str | Path = "data",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.root, self.seed = name, Path(root), seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.limits: dict[Split, int | None] = {"train": limit_train, "test": limit_test}
        self.keep_on_device = keep_on_device
        config = augment if isinstance(augment, AugmentConfig) else AugmentConfig(**(augment or {}))
        self.augment = None if config == AugmentConfig() else Augment(config)
        if self.augment and len(self.info.shape) != 3:
            raise UserError(
                f"dataset.augment changes images; dataset={name} has vectors of length {self.info.shape[0]}"
            )
        self._arrays: dict[Split, Arrays] = {}
        self._served: dict[tuple[Split, torch.device], Arrays] = {}

    def load(self, split: Split) -> Arrays:
        """The whole split, as found on disk or generated; the same for every seed."""
        raise NotImplementedError

    def source(self) -> dict[str, Any]:
        """Where the data come from, with checksums; two runs with equal sources have seen equal data."""
        return {}

    def arrays(self, split: Split) -> Arrays:
        """The split within its limit, in CPU memory; ``Batch.index`` counts in it."""
        if split not in self._arrays:
            arrays, limit = self.load(split), self.limits[split]
            if limit is not None and limit < len(arrays):
                arrays = arrays.select(balanced_subset(arrays.labels, limit))
            self._arrays[split] = arrays
        return self._arrays[split]

    def train_dataloader(self) -> ArrayLoader:
        """Shuffled, augmented batches that follow the trainer's step; without a trainer those of the first epoch."""
        loader = ArrayLoader(
            self._arrays_near_device("train"),
            self.batch_size,
            position=lambda: self._consumed(len(loader)),
            seed=self.seed,
            augment=self.augment,
            **self._place(),
        )
        return loader

    def test_dataloader(self) -> ArrayLoader:
        return self.eval_loader("test")

    def eval_loader(self, split: Split, samples: int | None = None, batch_size: int | None = None) -> ArrayLoader:
        """Every sample, or each of the first ``samples``, once over all processes, in index order, unchanged."""
        arrays = self._arrays_near_device(split)
        if samples is not None and samples < len(arrays):
            arrays = arrays.select(torch.arange(samples))
        return ArrayLoader(arrays, batch_size or self.eval_batch_size, **self._place())

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        if trainer is None:
            return {"device": torch.device("cpu")}
        return {"device": trainer.strategy.root_device, "rank": trainer.global_rank, "world": trainer.world_size}

    def _arrays_near_device(self, split: Split) -> Arrays:
        arrays, device = self.arrays(split), self._place()["device"]
        if not self.keep_on_device or device.type == "cpu" or not _fits(arrays, device):
            return arrays
        if (split, device) not in self._served:
            self._served[split, device] = Arrays(arrays.images.to(device), arrays.labels.to(device))
        return self._served[split, device]

    def _consumed(self, batches_per_epoch: int) -> int:
        """Training batches behind the trainer's step; with accumulation a step takes several, fewer at an epoch's end.

        The step is asked and not Lightning's count of batches, as a checkpoint may hold the step before the count.
        """
        if self.trainer is None:
            return 0
        batches_per_step = self.trainer.accumulate_grad_batches
        epoch, step = divmod(self.trainer.global_step, math.ceil(batches_per_epoch / batches_per_step))
        return epoch * batches_per_epoch + step * batches_per_step


def _fits(arrays: Arrays, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return arrays.images.nbytes + arrays.labels.nbytes < free / 4  # the rest is the model's and other processes'


def occurrence_in_class(labels: Tensor) -> Tensor:
    """How many earlier samples have the same label, int64 [N], for labels int64 [N]."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    occurrence = torch.empty_like(labels)
    occurrence[order] = torch.arange(len(labels)) - first[labels[order]]
    return occurrence


def balanced_subset(labels: Tensor, limit: int) -> Tensor:
    """Increasing indices, int64 [limit], of the first samples of every class.

    Class sizes differ by at most one, unless a class runs out: the others then fill up.
    """
    rounds = occurrence_in_class(labels) * (int(labels.max()) + 1) + labels
    return rounds.argsort()[:limit].sort().values
