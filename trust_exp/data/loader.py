"""Batches straight from arrays in memory: no worker processes, no Python per sample."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from trust_exp.data.augment import Augment
from trust_exp.data.batch import Arrays, Batch, as_floats
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator


class ArrayLoader:
    """Iterable over the batches of one pass over ``arrays``.

    Without ``position``, for evaluation: index order, nothing changed, nothing dropped; whole batches go round robin
    to the processes. With ``position``, for training: shuffled, augmented, the incomplete last batch dropped, each
    process taking its equal share of every batch. What is drawn depends on (seed, step) alone, so an iterator begun
    anywhere continues the same sequence, and a batch is the same for every number of processes.

    Args:
        arrays: where they lie is where samples are gathered.
        batch_size: over all processes.
        device: where batches are delivered.
        rank, world: this process and the number of processes.
        seed: of order and augmentation.
        position: training batches already consumed, asked when an iterator yields its first batch.
        augment: applied to training batches.

    Raises:
        UserError: if ``batch_size`` is not positive, or a training batch cannot be shared equally.
    """

    def __init__(
        self,
        arrays: Arrays,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        position: Callable[[], int] | None = None,
        augment: Augment | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"a batch size must be at least 1; got {batch_size}")
        self.arrays, self.device = arrays, torch.device(device)
        self.batch_size = batch_size if position is None else min(batch_size, len(arrays))
        self.rank, self.world = rank, world
        self.seed, self.position, self.augment = seed, position, augment
        if position is not None and self.batch_size % world:
            raise UserError(
                f"a training batch of {self.batch_size} samples cannot be shared equally by {world} processes; "
                f"choose dataset.batch_size as a multiple of {world}"
            )

    def __len__(self) -> int:
        if self.position is None:
            return max(1, len(self._own_batches()))
        return len(self.arrays) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self._in_index_order() if self.position is None else self._rest_of_epoch(self.position)

    # Lightning takes a loader with these two for one that resumes inside an epoch. The step says it all: no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def _own_batches(self) -> range:
        return range(self.rank, -(-len(self.arrays) // self.batch_size), self.world)

    def _in_index_order(self) -> Iterator[Batch]:
        index = torch.arange(len(self.arrays), device=self.arrays.images.device)
        if not self._own_batches():
            yield self._gather(index[:0])  # so that this process takes part in what follows the batches
        for batch in self._own_batches():
            yield self._gather(index[batch * self.batch_size : (batch + 1) * self.batch_size])

    def _rest_of_epoch(self, position: Callable[[], int]) -> Iterator[Batch]:
        epoch, offset = divmod(position(), len(self))
        order = torch.randperm(len(self.arrays), generator=keyed_generator(self.seed, "order", epoch))
        order = order.to(self.arrays.images.device)
        share = self.batch_size // self.world
        for number in range(offset, len(self)):
            start = number * self.batch_size + self.rank * share
            batch = self._gather(order[start : start + share])
            yield batch if self.augment is None else self._augmented(batch, epoch * len(self) + number, self.augment)

    def _gather(self, index: Tensor) -> Batch:
        image = self.arrays.images.index_select(0, index).to(self.device)
        return Batch(as_floats(image), self.arrays.labels.index_select(0, index).to(self.device), index.to(self.device))

    def _augmented(self, batch: Batch, step: int, augment: Augment) -> Batch:
        # Drawn for the batch of all processes and cut: the number of processes changes nothing.
        parameters = augment.draw(keyed_generator(self.seed, "augment", step), self.batch_size, self.device)
        share = len(batch.label)
        own = parameters.part(slice(self.rank * share, (self.rank + 1) * share))
        return batch._replace(image=augment.apply(batch.image, own))
