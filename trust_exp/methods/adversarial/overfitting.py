"""Watches single-step training for catastrophic overfitting (Wong et al. 2020): PGD on a fixed batch of A."""

from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.attacks.ball import Norm
from trust_exp.attacks.mode import attack_mode
from trust_exp.attacks.pgd import fgsm_rs, pgd
from trust_exp.data.batch import DatasetInfo
from trust_exp.methods.adversarial.config import MonitorConfig
from trust_exp.methods.adversarial.core import has_collapsed
from trust_exp.rng import keyed_generator


class OverfittingAlarm:
    """Accuracy of a network under one step and under several, and the step at which they first parted.

    Args:
        config: how.
        info: of the data.
        norm, epsilon, step_size: of the training's attack.
        image, label: the fixed batch, [B, ...] and int64 [B].
        seed: of the random starts.
    """

    def __init__(
        self,
        config: MonitorConfig,
        info: DatasetInfo,
        norm: Norm,
        epsilon: float,
        step_size: float,
        image: Tensor,
        label: Tensor,
        seed: int,
    ) -> None:
        self.config, self.domain, self.norm = config, info.domain, norm
        self.epsilon, self.step_size = epsilon, step_size
        self.image, self.label, self.seed = image, label, seed
        self.best, self.raised_at, self.checked_at = 0.0, -1, 0

    def due(self, step: int, every: int) -> bool:
        """Whether the weights after ``step`` optimiser steps are to be looked at and were not."""
        return step > self.checked_at and step % every == 0

    def check(self, model: nn.Module, step: int) -> tuple[dict[str, float], bool]:
        """Accuracies on the batch, and whether they raise the alarm for the first time."""
        device = next(model.parameters()).device
        self.image, self.label = self.image.to(device), self.label.to(device)
        shared: Any = {"norm": self.norm, "domain": self.domain}
        generator = keyed_generator(self.seed, "monitor", step)
        single = fgsm_rs(
            model, self.image, self.label, self.epsilon, step_size=self.step_size, generator=generator, **shared
        )
        multi = pgd(
            model,
            self.image,
            self.label,
            self.epsilon,
            step_size=2.5 * self.epsilon / self.config.steps,
            steps=self.config.steps,
            **shared,
        )
        found = {"fgsm_accuracy": self._accuracy(model, single), "pgd_accuracy": self._accuracy(model, multi)}
        raised = has_collapsed(found["fgsm_accuracy"], found["pgd_accuracy"], self.best, len(self.label))
        first = raised and self.raised_at < 0
        if first:
            self.raised_at = step
        self.best, self.checked_at = max(self.best, found["pgd_accuracy"]), step
        return found, first

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "raised_at": self.raised_at, "checked_at": self.checked_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was saved."""
        self.best, self.raised_at, self.checked_at = state["best"], state["raised_at"], state["checked_at"]

    def _accuracy(self, model: nn.Module, image: Tensor) -> float:
        with attack_mode(model), torch.no_grad():
            return (model(image).argmax(1) == self.label).double().mean().item()
