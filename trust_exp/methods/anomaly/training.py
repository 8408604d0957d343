"""Training of a model of normal images for each normal class, in turn, as if each were trained alone."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

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
    """Training batches of each model's normal samples: for each optimiser step a list of models and their batches.

    An epoch is one of every model; one with fewer batches is done earlier. Each sees the batches it would see alone.

    Args:
        normals: the normal classes of each model.
        together: a step is one of every model that is not done, and not of one model.
    """

    def __init__(self, data: DataModule, normals: Sequence[Sequence[int]], together: bool) -> None:
        super().__init__()
        self.data, self.normals, self.together = data, normals, together

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
    def steps(self) -> list[list[int]]:
        """The models of each step of an epoch."""
        rounds = rounds_of([len(loader) for loader in self.loaders])
        return rounds if self.together else [[model] for models in rounds for model in models]

    @cached_property
    def seen(self) -> Tensor:
        """How many batches each model has seen before each step of an epoch and after the last, int64 [S + 1, M]."""
        takes = torch.zeros(len(self.steps) + 1, len(self.loaders), dtype=torch.int64)
        for step, models in enumerate(self.steps):
            takes[step + 1, models] = 1
        return takes.cumsum(0)

    def train_dataloader(self) -> "Rounds":
        return Rounds(self.loaders, self.steps, lambda: self.step % len(self.steps))

    @property
    def step(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step

    def consumed(self, model: int, step: int | None = None) -> int:
        """How many batches a model has seen before an optimiser step of the training, by default the one to come."""
        epoch, rest = divmod(self.step if step is None else step, len(self.steps))
        return epoch * int(self.seen[-1, model]) + int(self.seen[rest, model])


def rounds_of(lengths: Sequence[int]) -> list[list[int]]:
    """The models that have a first batch, those that have a second one and so on: [2, 1] gives [0, 1], [0]."""
    return [[model for model, length in enumerate(lengths) if length > number] for number in range(max(lengths))]


class Rounds:
    """One pass over several loaders, whose turn it is as ``steps`` says; it begins at ``position`` of them."""

    def __init__(self, loaders: Sequence[Any], steps: Sequence[Sequence[int]], position: Callable[[], int]) -> None:
        self.loaders, self.steps, self.position = loaders, steps, position

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, AnyBatch]]]:
        left = self.steps[self.position() :]
        iterators = [iter(loader) for loader in self.loaders]
        for models in left:
            yield [(model, next(iterators[model])) for model in models]

    # Lightning takes a loader with these two for one that resumes inside an epoch. The step says it all: no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class OneClassTraining(GradientMethod):
    """Trains each model on its own normal samples; a subclass says what the loss of a batch is.

    Batches, noise and learning rate of a model are those that it would have alone. A step is one of one model, or of
    all models together: parameters of the others have no gradients, and the optimiser passes over them.

    Args:
        ensemble: "in_turn" or "together".
    """

    model: OneClass

    def __init__(self, model: OneClass, info: DatasetInfo, *, ensemble: str, **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.together = ensemble == "together"

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> OneClass:
        members = [model, *(copy.deepcopy(model) for _ in info.normal[1:])]  # each begins as it would alone
        return OneClass([cls.scorer(one, options) for one in members])

    @classmethod
    def scorer(cls, model: nn.Module, options: Mapping[str, Any]) -> nn.Module:
        """A model with its scores: one member of the network."""
        raise NotImplementedError

    def training_data(self, data: DataModule) -> NormalBatches:
        self.batches = NormalBatches(data, self.info.normal, self.together)
        return self.batches

    def steps_for(self, steps: int) -> int:
        return steps if self.together else steps * len(self.info.normal)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(member.parameters()), "member": number} for number, member in enumerate(self.model.members)
        ]

    def lr_factors(self, group: Mapping[str, Any]) -> Callable[[int], float]:
        total = self.batches.consumed(group["member"], self.total_steps)
        return lambda step: lr_factor(self.optimizer, self.batches.consumed(group["member"], step), total)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        for group in optimizer.param_groups if gradient_clip_val else ():
            nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)  # type: ignore[arg-type]

    def training_step(self, batch: list[tuple[int, AnyBatch]], batch_idx: int) -> Tensor:
        alike: dict[Any, list[int]] = {}  # models with as many images, in the same stage
        images = {number: samples.image for number, samples in batch}
        for number, image in images.items():
            alike.setdefault((image.shape, self.stage(number)), []).append(number)
        found: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        for (_, stage), numbers in alike.items():
            given = [(images[number], *self.further(number, len(images[number]))) for number in numbers]
            of_stage = partial(self.loss, stage=stage)
            members = [self.model.members[number] for number in numbers]
            each = stacked(of_stage, members, given) if len(members) > 1 else [of_stage(members[0], *given[0])]
            found.update(zip(numbers, each, strict=True))
        for model, (_, parts) in found.items():
            self.after(model, parts)
        losses = torch.stack([found[model][0] for model in sorted(found)])
        if self.logs_now:
            self.log_step(losses.mean(), **_means([parts for _, parts in found.values()]))
        return losses.sum()

    def stage(self, number: int) -> int:
        """The part of its training in which a model is at this step; models of one part are computed together."""
        return 0

    def further(self, number: int, samples: int) -> tuple[Tensor, ...]:
        """Further tensors that the loss of a model takes at this step."""
        return ()

    def loss(self, member: Any, image: Tensor, *further: Tensor, stage: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a model for a batch of its images, and parts of it for the learning curves.

        Nothing here may depend on values of tensors or on the number of the model: ``vmap`` calls it for all at once.
        """
        raise NotImplementedError

    def after(self, number: int, parts: dict[str, Tensor]) -> None:
        """Called for each model of a step with the parts of its loss."""

    def noise(self, number: int, samples: int, latents: int) -> Tensor:
        """Standard normal noise for this process' share of a step's batch, [samples, latents]."""
        step = self.batches.consumed(number)
        generator = keyed_generator(self.batches.data.seed, "noise", step)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        whole = torch.randn(samples * world, latents, generator=generator)
        return whole[rank * samples : (rank + 1) * samples].to(self.device)


def _means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of what all models have, the mean over the models."""
    shared = [name for name in parts[0] if all(name in others for others in parts)]
    return {name: torch.stack([own[name].detach().mean() for own in parts]).mean() for name in shared}


class _Loss(nn.Module):
    """A loss as the output of a module, so that ``functional_call`` can exchange the member's tensors."""

    def __init__(self, loss: Callable[..., Any], member: nn.Module) -> None:
        super().__init__()
        self.loss, self.member = loss, member

    def forward(self, *given: Tensor) -> Any:
        return self.loss(self.member, *given)


def stacked(
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    members: Sequence[nn.Module],
    given: Sequence[tuple[Tensor, ...]],
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """``loss(member, *given)`` of members of one architecture, computed together over their stacked tensors.

    The members' own parameters get the gradients, and their buffers, such as the statistics of batch norm, what was
    written into them.
    """
    whole = _Loss(loss, members[0])
    parameters, buffers = (
        {f"member.{name}": torch.stack([vars_of(member)[name] for member in members]) for name in vars_of(members[0])}
        for vars_of in (lambda member: dict(member.named_parameters()), lambda member: dict(member.named_buffers()))
    )
    inputs = tuple(torch.stack(kind) for kind in zip(*given, strict=True))
    losses, parts = vmap(lambda *own: functional_call(whole, own[:2], own[2]))(parameters, buffers, inputs)
    for number, member in enumerate(members):
        for name, buffer in member.named_buffers():
            buffer.copy_(buffers[f"member.{name}"][number])
    return [(losses[number], {name: part[number] for name, part in parts.items()}) for number in range(len(members))]
