"""What watches a training: safe points that a resumed run continues from exactly, the progress bar, interrupts."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L

from trust_exp.errors import Interrupted
from trust_exp.progress import Bar
from trust_exp.results.table import say


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


class SafePoint(L.Callback):
    """Saves the training every so many seconds and when asked to stop; the file is whole at any time.

    The order and augmentation of the data depend on the optimiser step alone, so any step is a safe point.
    """

    def __init__(self, path: Path, seconds: float, stop: StopRequest) -> None:
        self.path, self.seconds, self.stop = path, seconds, stop

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
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)
        self.saved = time.monotonic()
        if stop:
            raise Interrupted("stopped at a safe point")


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
