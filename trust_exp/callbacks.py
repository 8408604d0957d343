"""Callbacks of a training: its draws, the check of its loss, exact safe points, the progress bar, interrupts."""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from trust_exp import durable
from trust_exp.console import say
from trust_exp.errors import Interrupted
from trust_exp.progress import Bar
from trust_exp.rng import seed_globals
from trust_exp.saving import all_finite

SAME_AGAIN = (
    "the same command would stop there again; a smaller method.optimizer.lr, or fit.gradient_clip, makes another run"
)


class StopRequest(L.Callback):
    """Turns SIGINT and SIGTERM into a request that a training honours after the batch, and all else at once."""

    def __init__(self) -> None:
        self.patient = False
        self.requested = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.patient or self.requested:
            raise Interrupted(signal.Signals(number).name)
        self.requested = True

    # Lightning puts its own SIGTERM handler before ours when it starts: it would end the run before the step is saved,
    # and calls collectives of the process group from within the handler.
    def on_train_start(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self)

    def on_test_start(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handle both signals while the body runs."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class StepDraws(L.Callback):
    """Makes a step's draws, such as dropout, depend on seed, step and process alone: any step is a safe point."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        seed_globals(self.seed, "training", trainer.global_step, trainer.global_rank)


class FiniteLoss(L.Callback):
    """Stops a training at a loss that is not finite, and names its step.

    Reading a loss waits for the device, or for the other processes, so there the losses of several steps are kept and
    read together.

    Args:
        every: batches between two readings.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.batches = 0
        self.unread: list[tuple[int, Tensor]] = []  # step, counted from 1, and loss

    def on_train_batch_end(self, trainer: L.Trainer, _: L.LightningModule, outputs: Any, *__: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self.unread.append((trainer.global_step, loss.detach()))
        self.batches += 1
        if self.costs_nothing(trainer) or self.batches % self.every == 0:
            self.read(trainer)

    def on_train_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.read(trainer)

    @staticmethod
    def costs_nothing(trainer: L.Trainer) -> bool:
        """Whether reading a loss waits for nobody."""
        return trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"

    def read(self, trainer: L.Trainer) -> None:
        """Look at all losses since the last time; on every process together.

        Raises:
            FloatingPointError: on every process, if one is not finite on any.
        """
        values = torch.stack([loss.float() for _, loss in self.unread]).tolist() if self.unread else []
        found = [
            (step, value) for (step, _), value in zip(self.unread, values, strict=True) if not math.isfinite(value)
        ]
        self.unread = []
        if trainer.strategy.reduce_boolean_decision(not found, all=True):
            return
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, found)
            found = [one for part in parts for one in part]
        step, value = min(found, key=lambda one: one[0])
        total = int(trainer.estimated_stepping_batches)
        raise FloatingPointError(f"the loss is not finite ({value}) at step {step} of {total}; {SAME_AGAIN}")


class SafePoint(L.Callback):
    """Saves the training every so many seconds and when asked to stop; the file is whole and finite at any time.

    The order and augmentation of the data depend on the optimiser step alone, so any step is a safe point.
    """

    def __init__(self, path: Path, seconds: float, stop: StopRequest, losses: FiniteLoss) -> None:
        self.path, self.seconds, self.stop, self.losses = path, seconds, stop, losses

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.saved = time.monotonic()
        self.stop.patient = True

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        due = self.stop.requested or time.monotonic() - self.saved >= self.seconds
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer)

    def on_train_end(self, *_: Any) -> None:
        self.stop.patient = False

    def on_exception(self, *_: Any) -> None:
        self.stop.patient = False

    def _save(self, trainer: L.Trainer) -> None:
        stop = self.stop.requested
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        self._check_finite(trainer)
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            durable.put(part, self.path)
        self.saved = time.monotonic()
        if stop:
            raise Interrupted("stopped at a safe point")

    def _check_finite(self, trainer: L.Trainer) -> None:
        """Keep the last good safe point: weights may be lost by a step whose own loss was finite."""
        self.losses.read(trainer)
        if not trainer.strategy.reduce_boolean_decision(
            all_finite(trainer.lightning_module.state_dict().values()), all=True
        ):
            raise FloatingPointError(
                f"the weights are not finite after step {trainer.global_step} of "
                f"{int(trainer.estimated_stepping_batches)}; {SAME_AGAIN}"
            )


class ProgressLine(L.Callback):
    """One bar over the whole training, one over each evaluation."""

    def __init__(self, what: str = "train") -> None:
        self.what = what
        self.first_step: int | None = None

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        total = int(trainer.estimated_stepping_batches)
        if trainer.global_step and trainer.is_global_zero:
            say(f"resuming from step {trainer.global_step} of {total}")
        self.first_step = trainer.global_step
        self.bar = Bar("train", total, visible=trainer.is_global_zero)
        self.note = ""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # reading a metric waits for the device, so it is done only when the bar is drawn
        if self.bar.due():
            self.note = "  ".join(
                f"{name.removeprefix('train/')} {float(value):.4g}" for name, value in trainer.callback_metrics.items()
            )
            self.bar.update(trainer.global_step, self.note)

    def on_train_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.bar.update(trainer.global_step, self.note)
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        if hasattr(self, "bar"):
            self.bar.close()

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        total = int(sum(trainer.num_test_batches))
        self.bar = Bar(self.what, total, visible=trainer.is_global_zero)

    def on_test_batch_end(self, *_: Any) -> None:
        self.bar.update(self.bar.done + 1)

    def on_test_end(self, *_: Any) -> None:
        self.bar.close()
