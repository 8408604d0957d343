"""The base of every method, of those trained by gradients, and of those solved in one pass."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.data.batch import DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.methods.config import OptimizerConfig
from trust_exp.methods.schedules import lr_factor, polynomial
from trust_exp.saving import load_whole, save_whole

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "sgd": torch.optim.SGD,
}


class Method(L.LightningModule):
    """A model and the way it comes to its weights.

    Args:
        model: maps images to logits [B, C]; what ``network`` made of the chosen one.
        info: what the data are.
    """

    draws = True  # whether the seed changes what it finds

    def __init__(self, model: nn.Module, info: DatasetInfo) -> None:
        super().__init__()
        self.model = model
        self.info = info

    @classmethod
    def check(cls, options: Mapping[str, Any], info: DatasetInfo) -> None:
        """Raise UserError if the options, the method's checked node, make no sense for such data."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> nn.Module:
        """The network that is trained, kept and evaluated: the model, or one that is built around it.

        Args:
            options: the checked node of the method.
        """
        return model

    def derived(self) -> dict[str, float]:
        """Numbers that follow from the configuration and help to read it; logged as derived/*."""
        return {}

    def conclude(self, folder: Path, ending: str) -> list[Path]:
        """Write into the run's folder what a training leaves besides its weights; called on every process after it.

        Args:
            ending: of the files of figures, such as ".png".

        Returns:
            The figures that were drawn; of the first process.
        """
        return []

    def facts(self) -> dict[str, Any]:
        """Findings and choices of the training that evals or readers need, JSON-like; "facts" of result.json."""
        return {}

    @classmethod
    def class_groups(cls, facts: Mapping[str, Any], classes: Sequence[str]) -> dict[str, list[str]]:
        """Sets of classes that mean something to the method, by a letter; evals count each of them separately.

        Args:
            facts: of the training.
            classes: names of all of them.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """The state of the model that is kept and evaluated: that of the last step, if a method has no better one."""
        return self.model.state_dict()


class GradientMethod(Method):
    """A method that is trained by gradients; ``in_stages``: not every step has one for every parameter.

    Args:
        optimizer: values of ``OptimizerConfig``; the others are its defaults.
        log_every: optimiser steps between two lines of the learning curves.
    """

    in_stages = False

    def __init__(self, model: nn.Module, info: DatasetInfo, optimizer: Mapping[str, Any], log_every: int = 50) -> None:
        super().__init__(model, info)
        self.optimizer = {**asdict(OptimizerConfig()), **optimizer}
        self.log_every = log_every
        self._total_steps: int | None = None

    def training_data(self, data: DataModule) -> L.LightningDataModule:
        """The data module of the training, made from the run's data; most methods take those as they are."""
        return data

    def steps_for(self, steps: int) -> int:
        """Optimiser steps of a training of ``fit.steps``; more where several models take so many each, in turn."""
        return steps

    def scheduled(self, end: float, schedule: Mapping[str, float] | None) -> float:
        """``end``, or where its schedule stands at this step of the training."""
        if schedule is None:
            return end
        return polynomial(schedule["start"], end, schedule["power"], min(1.0, self.global_step / self.total_steps))

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        if self._total_steps is None:
            self._total_steps = int(self.trainer.estimated_stepping_batches)
        return self._total_steps

    def log_step(self, loss: Tensor, **values: Tensor | float) -> None:
        """Add a point to the learning curves."""
        points = {f"train/{name}": value for name, value in {"loss": loss.detach(), **values}.items()}
        self.log_dict(points, on_step=True, on_epoch=False, rank_zero_only=True)

    @property
    def logs_now(self) -> bool:
        """Whether this step is one that is logged; what only the log needs is computed then."""
        return (self.global_step + 1) % self.log_every == 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trained parameters, in groups that may have options of their own."""
        return [{"params": [parameter for parameter in self.model.parameters() if parameter.requires_grad]}]

    def lr_factors(self, group: Mapping[str, Any]) -> Callable[[int], float]:
        """The factor of a group's learning rate at each optimiser step."""
        return lambda step: lr_factor(self.optimizer, step, self.total_steps)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        factors = [self.lr_factors(group) for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        values = self.optimizer
        given: dict[str, Any] = {"lr": values["lr"], "weight_decay": values["weight_decay"]}
        if values["name"] == "sgd":
            given |= {"momentum": values["momentum"], "nesterov": values["nesterov"]}
        else:
            given |= {"betas": tuple(values["betas"])}
        # fused: one kernel for all parameters; small networks spend a third of a step in the optimiser otherwise.
        # With float16 it unscales the gradients itself, and Lightning could not clip them any more.
        if values["name"] != "nadam":  # which torch has not fused
            given["fused"] = self.trainer.precision != "16-mixed"
        return OPTIMIZERS[values["name"]](self.parameter_groups(), **given)


class ClosedForm(Method):
    """A method that is solved in one pass, portion by portion, without an optimiser; it runs under ``Trainer.test``.

    Each process solves its own portions; the results are put together at the end. Results are saved to files now and
    then, so a run that was stopped goes on with the portions that are left, on any number of processes.
    """

    data: DataModule
    safe: Path | None = None  # where what is found is kept, with the rank before the ending; None: nowhere
    seconds: float = 30.0  # between two times

    def portions(self, rank: int, world: int) -> Sequence[Sequence[int]]:
        """The portions of a process, in order; each lists the names of its results, such as classes."""
        raise NotImplementedError

    def begin(self, portions: Sequence[Sequence[int]]) -> None:
        """Called before the first portion is solved, with all that are left, in the order in which they are solved."""

    def solve(self, portion: Sequence[int]) -> dict[int, Any]:
        """The results of a portion by name: numbers and CPU tensors in dictionaries, tuples and lists."""
        raise NotImplementedError

    def keep(self, found: dict[int, Any]) -> None:
        """Put the results of all processes into the model."""
        raise NotImplementedError

    def test_dataloader(self) -> "Portions":
        self.data.trainer = self.trainer  # which knows the device only now
        self.found: dict[int, Any] = {}
        for path in self._files():
            self.found.update(load_whole(path))
        self.trainer.strategy.barrier("all have read what was found before")
        self.saved = time.monotonic()
        portions = self.portions(self.trainer.global_rank, self.trainer.world_size)
        left = [portion for portion in portions if not self.found.keys() >= set(portion)]
        self.begin(left)
        return Portions(left or [[]])  # without any Lightning would not ask for the end either

    def test_step(self, portion: Sequence[int], batch_idx: int) -> None:
        if not portion:
            return
        with torch.no_grad():
            self.found.update(self.solve(portion))
        if self.safe is not None and time.monotonic() - self.saved >= self.seconds:
            path = self.safe.with_stem(f"{self.safe.stem}-{self.trainer.global_rank}")
            save_whole(self.found, path)
            self.saved = time.monotonic()

    def _files(self) -> list[Path]:
        """Files that processes of an earlier try left."""
        return [] if self.safe is None else sorted(self.safe.parent.glob(f"{self.safe.stem}-*{self.safe.suffix}"))

    def forget(self) -> None:
        """Remove what was kept on the way."""
        for path in self._files():
            path.unlink()

    def on_test_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self.found)
            self.found = {name: value for part in parts for name, value in part.items()}
        self.keep(dict(sorted(self.found.items())))


class Portions:
    """A loader of portions for Lightning, which would take a list for several loaders."""

    def __init__(self, portions: Sequence[Any]) -> None:
        self.portions = portions

    def __len__(self) -> int:
        return len(self.portions)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.portions)
