"""An alarm for catastrophic overfitting of single-step training (Wong et al. 2020): PGD on a fixed batch of A."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.attacks.arguments import Threat
from trust_exp.attacks.mode import attack_mode
from trust_exp.attacks.projected_gradient import fgsm_rs, pgd
from trust_exp.console import say
from trust_exp.data.module import DataModule
from trust_exp.methods.adversarial.checks import Check, log_now
from trust_exp.methods.adversarial.config import MonitorConfig
from trust_exp.methods.adversarial.core import has_collapsed
from trust_exp.rng import keyed_generator
from trust_exp.verdicts import predicted


class OverfittingAlarm(Check):
    """Accuracy under one attack step and under several, and the step at which the two first diverged.

    Args:
        config: how often, with how many steps and samples.
        epsilon, threat, step_size: of the training's attack.
    """

    def __init__(self, config: MonitorConfig, epsilon: float, threat: Threat, step_size: float) -> None:
        self.config, self.epsilon, self.threat, self.step_size = config, epsilon, threat, step_size
        self.best, self.raised_at, self.checked_at = 0.0, -1, 0

    def on_fit_start(self, trainer: L.Trainer, method: Any) -> None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        attacked = torch.isin(data.served("train"), method.subset.index).nonzero().squeeze(1)
        spread = torch.linspace(0, len(attacked) - 1, min(self.config.samples, len(attacked))).long()
        image, label, *_ = data.samples("train", attacked[spread])
        self.begin(image.to(method.device), label.to(method.device), data.seed)

    def begin(self, image: Tensor, label: Tensor, seed: int) -> None:
        """Watch a fixed batch, [B, ...] and int64 [B]; ``seed``: of the random starts."""
        self.image, self.label, self.seed = image, label, seed

    def between_steps(self, trainer: L.Trainer, method: Any) -> None:
        step, every = trainer.global_step, int(self.config.every or trainer.num_training_batches)
        if step <= self.checked_at or step % every:
            return
        found, first = self.check(method.model, step)
        log_now(trainer, **found)
        if first and trainer.is_global_zero:
            say(
                f"warning: catastrophic overfitting at step {step}: accuracy {found['pgd_accuracy']:.1%} under PGD, "
                f"{found['fgsm_accuracy']:.1%} under the single step of the training; a smaller method.step_size or "
                "method=sat helps"
            )

    def check(self, model: nn.Module, step: int) -> tuple[dict[str, float], bool]:
        """Accuracies on the batch, and whether they raise the alarm for the first time."""
        single = fgsm_rs(
            model,
            self.image,
            self.label,
            self.epsilon,
            step_size=self.step_size,
            generator=keyed_generator(self.seed, "monitor", step),
            **self.threat,
        )
        multi = pgd(
            model,
            self.image,
            self.label,
            self.epsilon,
            step_size=2.5 * self.epsilon / self.config.steps,
            steps=self.config.steps,
            **self.threat,
        )
        found = {"fgsm_accuracy": self._accuracy(model, single), "pgd_accuracy": self._accuracy(model, multi)}
        raised = has_collapsed(found["fgsm_accuracy"], found["pgd_accuracy"], self.best, len(self.label))
        first = raised and self.raised_at < 0
        if first:
            self.raised_at = step
        self.best, self.checked_at = max(self.best, found["pgd_accuracy"]), step
        return found, first

    def _accuracy(self, model: nn.Module, image: Tensor) -> float:
        with attack_mode(model), torch.no_grad():
            return (predicted(model(image)) == self.label).double().mean().item()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "raised_at": self.raised_at, "checked_at": self.checked_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.raised_at, self.checked_at = (state_dict[key] for key in ("best", "raised_at", "checked_at"))

    def facts(self) -> dict[str, Any]:
        """For result.json: the step at which the training collapsed, or None."""
        return {"catastrophic_overfitting_at": None if self.raised_at < 0 else self.raised_at}
