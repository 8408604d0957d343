"""Temporal ensembling against robust overfitting: predictions stay near their running mean (Dong et al. 2022)."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.attacks.mode import attack_mode
from trust_exp.errors import UserError
from trust_exp.methods.adversarial.config import EnsemblingConfig
from trust_exp.methods.adversarial.core import distance_to_mean, ramp


class TemporalEnsemble(L.Callback):
    """Running means of the predictions for the clean samples of A, and a penalty on attacked samples far from them.

    A training step calls ``penalty``. The means are part of a checkpoint.

    Raises:
        UserError: when the training begins on several processes.
    """

    def __init__(self, config: EnsemblingConfig) -> None:
        self.config = config
        self.mean: Tensor | None = None  # of predictions, not yet scaled to sum to 1

    def on_fit_start(self, trainer: L.Trainer, method: Any) -> None:
        if trainer.world_size > 1:
            raise UserError(
                "method.ensembling keeps each sample's mean prediction in one process; choose accelerator.devices=1 "
                "and accelerator.nodes=1, or method.ensembling=null"
            )
        self.begin(method.subset.index.to(method.device), len(method.info.classes), method.total_steps)

    def begin(self, index: Tensor, classes: int, steps: int) -> None:
        """Start, or go on from the state that was loaded.

        Args:
            index: the samples of A, int64 [|A|], increasing.
            classes: number of classes.
            steps: optimiser steps of the whole training.
        """
        self.index, self.steps = index, steps
        mean = torch.zeros(len(index), classes) if self.mean is None else self.mean
        self.mean = mean.to(index.device)

    def penalty(self, model: nn.Module, step: int, index: Tensor, clean: Tensor, attacked: Tensor) -> Tensor:
        """Update the means of clean samples of A, and return what is added to the samples' losses, float32 [K].

        Args:
            step: optimiser steps so far.
            index: the samples, int64 [K].
            clean: the samples, [K, ...].
            attacked: logits of their adversarial examples, float32 [K, C]; gradients flow into these alone.
        """
        weight = self.config.weight * ramp(step / self.steps, self.config.start, self.config.end)
        if not weight or not len(index):
            return attacked.new_zeros(len(index))
        if self.mean is None:
            raise RuntimeError("TemporalEnsemble.begin must be called first")
        with attack_mode(model), torch.no_grad():
            predicted = model(clean).float().softmax(1)
        rows = torch.searchsorted(self.index, index)
        self.mean[rows] = self.mean[rows].lerp(predicted, 1 - self.config.momentum)
        return weight * distance_to_mean(attacked, self.mean[rows])

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean = state_dict["mean"]
