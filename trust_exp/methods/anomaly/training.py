"""Training of a model of normal images for each normal class, in turn, as if each were trained alone."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, zip_longest
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.data.batch import AnyBatch, DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.schedules import lr_factor
from trust_exp.rng import keyed_generator


class OneClass(nn.Module):
    """One model for each set of normal classes; each of its outputs is those of the models, [B, M, ...].

    Args:
        members: one a model; each gives outputs by name, [B, ...].
    """

    gives = ("scores",)  # and what else its members give

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = [member(image) for member in self.members]
        return {name: torch.stack([one[name] for one in found], dim=1) for name in found[0]}


class NormalBatches(L.LightningDataModule):
    """Training batches of each model's normal samples, the models in turn: pairs of its number and a batch.

    An epoch is one of every model; one with fewer batches is done earlier. Each sees the batches it would see alone.
    """

    def __init__(self, data: DataModule, normals: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.data, self.normals = data, normals

    @cached_property
    def loaders(self) -> list[Any]:
        """One for each model."""
        self.data.trainer = self.trainer  # which knows the device and this process' share
        return [self.data.train_loader(own, partial(self.consumed, model)) for model, own in enumerate(self.rows)]

    @cached_property
    def rows(self) -> list[Tensor]:
        """The normal samples of each model, int64 [N], places among the training samples that are served."""
        labels = self.data.served_labels("train")
        return [torch.isin(labels, torch.tensor(own)).nonzero().squeeze(1) for own in self.normals]

    @cached_property
    def order(self) -> list[int]:
        """The number of the model whose turn it is, at each step of an epoch."""
        return turns([len(loader) for loader in self.loaders])

    def train_dataloader(self) -> "InTurn":
        return InTurn(self.loaders, self.order, lambda: self.step % len(self.order))

    @property
    def step(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step

    def consumed(self, model: int, step: int | None = None) -> int:
        """How many batches a model has seen before an optimiser step of the training, by default the one to come."""
        epoch, rest = divmod(self.step if step is None else step, len(self.order))
        return epoch * self.order.count(model) + self.order[:rest].count(model)


def turns(lengths: Sequence[int]) -> list[int]:
    """Whose turn it is at each step of an epoch, for models of so many batches: [2, 1] gives 0, 1, 0."""
    rounds = zip_longest(*([model] * length for model, length in enumerate(lengths)))
    return [model for model in chain.from_iterable(rounds) if model is not None]


class InTurn:
    """One pass over several loaders, in the given order; it begins at ``position`` of the order."""

    def __init__(self, loaders: Sequence[Any], order: Sequence[int], position: Callable[[], int]) -> None:
        self.loaders, self.order, self.position = loaders, order, position

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, AnyBatch]]:
        left = self.order[self.position() :]
        iterators = [iter(loader) for loader in self.loaders]
        for model in left:
            yield model, next(iterators[model])

    # Lightning takes a loader with these two for one that resumes inside an epoch. The step says it all: no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class OneClassTraining(GradientMethod):
    """Trains each model on its own normal samples; a subclass says what the loss of a batch is.

    Every step is one of one model: its parameters alone have gradients, and the optimiser passes over the others.
    Batches, noise and learning rate of a model are those that it would have alone.
    """

    model: OneClass

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> OneClass:
        members = [model, *(copy.deepcopy(model) for _ in info.normal[1:])]  # each begins as it would alone
        return OneClass([cls.scorer(one, options) for one in members])

    @classmethod
    def scorer(cls, model: nn.Module, options: Mapping[str, Any]) -> nn.Module:
        """A model with its scores: one member of the network."""
        raise NotImplementedError

    def training_data(self, data: DataModule) -> NormalBatches:
        self.batches = NormalBatches(data, self.info.normal)
        return self.batches

    def steps_for(self, steps: int) -> int:
        return steps * len(self.info.normal)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(member.parameters()), "member": number} for number, member in enumerate(self.model.members)
        ]

    def lr_factors(self, group: Mapping[str, Any]) -> Callable[[int], float]:
        total = self.batches.consumed(group["member"], self.total_steps)
        return lambda step: lr_factor(self.optimizer, self.batches.consumed(group["member"], step), total)

    def training_step(self, batch: tuple[int, AnyBatch], _: int) -> Tensor:
        number, samples = batch
        loss, parts = self.loss(number, samples.image)
        if self.logs_now:
            self.log_step(loss, **parts)
        return loss

    def noise(self, number: int, samples: int, latents: int) -> Tensor:
        """Standard normal noise for this process' share of a step's batch, [samples, latents]."""
        step = self.batches.consumed(number)
        generator = keyed_generator(self.batches.data.seed, "noise", step)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        whole = torch.randn(samples * world, latents, generator=generator)
        return whole[rank * samples : (rank + 1) * samples].to(self.device)

    def loss(self, number: int, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a model for a batch of its images, and parts of it for the learning curves."""
        raise NotImplementedError
