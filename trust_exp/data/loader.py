"""The samples of each batch; and batches from arrays in memory, without workers or Python per sample."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trust_exp.data.augment import Augment, Parameters
from trust_exp.data.batch import AnyBatch, Arrays
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator


class Planned(NamedTuple):
    """A batch to come: the places of its samples among those served (int64 [B]), and the training step it is for."""

    rows: Tensor
    step: int | None


class Loader:
    """One pass over a number of samples in batches.

    Without ``position``, for evaluation: index order, nothing changed, nothing dropped; whole batches go round robin
    to the processes. With ``position``, for training: shuffled, augmented, the incomplete last batch dropped, each
    process taking its equal share of every batch. What is drawn depends on (seed, step) alone, so an iterator begun
    anywhere continues the same sequence, and a batch is the same for every number of processes.

    Args:
        samples: how many are served.
        batch_size: over all processes.
        device: where batches are delivered.
        rank, world: this process and the number of processes.
        seed: of order and augmentation.
        position: gives the number of training batches already consumed; called before the first batch of an iterator.
        augment: applied to training batches.

    Raises:
        UserError: if ``batch_size`` is not positive, or a training batch cannot be shared equally.
    """

    def __init__(
        self,
        samples: int,
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
        self.samples, self.device = samples, torch.device(device)
        self.batch_size = batch_size if position is None else min(batch_size, samples)
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
        return self.samples // self.batch_size

    # Lightning takes a loader with these two for one that resumes inside an epoch. The step says it all: no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def _plan(self) -> list[Planned]:
        """The batches of this pass; none if there are more processes than batches of an evaluation."""
        return self._in_index_order() if self.position is None else self._rest_of_epoch(self.position())

    def _own_batches(self) -> range:
        return range(self.rank, -(-self.samples // self.batch_size), self.world)

    def _in_index_order(self) -> list[Planned]:
        rows = torch.arange(self.samples)
        starts = (number * self.batch_size for number in self._own_batches())
        return [Planned(rows[start : start + self.batch_size], None) for start in starts]

    def _rest_of_epoch(self, position: int) -> list[Planned]:
        epoch, offset = divmod(position, len(self))
        order = torch.randperm(self.samples, generator=keyed_generator(self.seed, "order", epoch))
        batches = order[: len(self) * self.batch_size].view(len(self), self.batch_size)[:, self._own_share()]
        return [Planned(batches[number], epoch * len(self) + number) for number in range(offset, len(self))]

    def _own_share(self) -> slice:
        """This process' part of every training batch."""
        share = self.batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def _drawn(self, augment: Augment, step: int) -> Parameters:
        """How the samples of this process are changed at a step."""
        # Drawn for the batch of all processes and cut: the number of processes changes nothing.
        drawn = augment.draw(keyed_generator(self.seed, "augment", step), self.batch_size, self.device)
        return drawn.part(self._own_share())


class ArrayLoader(Loader):
    """Iterable over the batches of one pass over ``arrays``; where these lie is where samples are gathered.

    Its other arguments are those of ``Loader``.
    """

    def __init__(self, arrays: Arrays, batch_size: int, **options: Any) -> None:
        super().__init__(len(arrays), batch_size, **options)
        self.arrays = arrays

    def __iter__(self) -> Iterator[AnyBatch]:
        nothing = Planned(torch.arange(0), None)  # as other processes wait for this one after each batch
        for rows, step in self._plan() or [nothing]:
            batch = self.arrays.select(rows.to(self.arrays.images.device)).to(self.device)
            if step is not None and self.augment is not None:
                batch = changed(batch, self.augment, self._drawn(self.augment, step))
            yield batch.batch()


def changed(arrays: Arrays, augment: Augment, parameters: Parameters) -> Arrays:
    """Samples after an augmentation, their label maps moved with the images."""
    new = {"images": augment.apply(arrays.images, parameters)}
    if arrays.labels.dim() > 1:
        new["labels"] = augment.apply_maps(arrays.labels.unsqueeze(1), parameters).squeeze(1)
    if arrays.concepts is not None:
        new["concepts"] = augment.apply_maps(arrays.concepts, parameters)
    return dataclasses.replace(arrays, **new)
