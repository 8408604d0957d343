"""Looking at a network between two optimiser steps."""

from typing import Any

import lightning.pytorch as L


class Check(L.Callback):
    """Looks at the network between optimiser steps; a subclass says at which of them, and what it looks for.

    It does so before a step and not after it: callbacks that save come first after a step, so a check that a checkpoint
    missed is made when the run goes on.
    """

    def between_steps(self, trainer: L.Trainer, method: Any) -> None:
        """Called after every step, and again when the training ends; must not look at the same step twice."""
        raise NotImplementedError

    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, *_: Any) -> None:
        self.between_steps(trainer, method)

    def on_train_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self.between_steps(trainer, method)

    def on_fit_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self.between_steps(trainer, method)  # of a run that was stopped after its last step and trains no more


def log_now(trainer: L.Trainer, **values: float) -> None:
    """Add a point to learning curves, whether or not this step is logged."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        logger.log_metrics({f"train/{name}": value for name, value in values.items()}, step=trainer.global_step)
