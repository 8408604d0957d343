"""The training step of each method of this family; core.py has the maths, subset.py chooses the attacked samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.arguments import Threat
from trust_exp.attacks.ball import Norm, check_radius
from trust_exp.attacks.projected_gradient import fgsm_rs, pgd, trades_attack
from trust_exp.console import say
from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.data.subset import ATTACKED, write_index
from trust_exp.methods.adversarial.config import (
    EnsemblingConfig,
    MonitorConfig,
    PgdConfig,
    StoppingConfig,
    SubsetConfig,
    TradesAttackConfig,
)
from trust_exp.methods.adversarial.core import divergence, mean_loss, two_parts, weight_of_attacked
from trust_exp.methods.adversarial.ensembling import TemporalEnsemble
from trust_exp.methods.adversarial.overfitting import OverfittingAlarm
from trust_exp.methods.adversarial.stopping import EarlyStopping
from trust_exp.methods.adversarial.subset import Subset, choose, rows_in
from trust_exp.methods.base import GradientMethod
from trust_exp.rng import keyed_generator
from trust_exp.verdicts import predicted


class StepLosses(NamedTuple):
    """Losses float32 [B] and their weights [B]; which predictions for clean and attacked samples are right."""

    losses: Tensor
    weights: Tensor
    clean: Tensor
    attacked: Tensor


class AdversarialTraining(GradientMethod):
    """Training that attacks the samples of A and no others; each method says how, and with which loss.

    Args:
        norm, epsilon: of the attack, in the data's own units.
        subset: the choice of A, a SubsetConfig or its fields.
        weights, average: of the loss, see core.py.
        batch_norm: joint: clean and attacked samples share its statistics; split: see ``two_parts``.
        stopping: a StoppingConfig or its fields; None: the weights of the last step are kept.
        ensembling: an EnsemblingConfig or its fields; None: no temporal ensembling.

    Raises:
        UserError: when the training begins, if this choice of A is impossible.
    """

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        *,
        norm: Norm,
        epsilon: float,
        subset: SubsetConfig | Mapping[str, Any],
        weights: str,
        average: str,
        batch_norm: str,
        stopping: StoppingConfig | Mapping[str, Any] | None,
        ensembling: EnsemblingConfig | Mapping[str, Any] | None,
        optimizer: Mapping[str, Any],
        log_every: int = 50,
    ) -> None:
        super().__init__(model, info, optimizer, log_every)
        self.epsilon, self.threat = epsilon, Threat(norm=norm, domain=info.domain)
        self.subset_config = subset if isinstance(subset, SubsetConfig) else SubsetConfig(**subset)
        self.scheme, self.average, self.joint = weights, average, batch_norm == "joint"
        stopping = StoppingConfig(**stopping) if isinstance(stopping, Mapping) else stopping
        self.stopping = None if stopping is None else EarlyStopping(stopping, epsilon, self.threat)
        ensembling = EnsemblingConfig(**ensembling) if isinstance(ensembling, Mapping) else ensembling
        self.ensemble = None if ensembling is None else TemporalEnsemble(ensembling)
        self.subset: Subset | None = None

    @classmethod
    def check(cls, options: Mapping[str, Any], info: DatasetInfo) -> None:
        check_radius("method.epsilon", options["epsilon"], options["norm"], info.domain, info.shape)

    def configure_callbacks(self) -> list[L.Callback]:
        return [callback for callback in (self.ensemble, self.stopping) if callback is not None]

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial examples of x, [K, ...]."""
        raise NotImplementedError

    @property
    def data(self) -> DataModule:
        """The run's data."""
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    # --- a step --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, _: int) -> Tensor:
        rows = rows_in(self.lookup, batch.index)
        x = batch.image[rows]
        if len(rows):
            # keyed by the step, so that a resumed run attacks as an uninterrupted one
            generator = keyed_generator(self.data.seed, "attack", self.global_step, self.global_rank)
            x = self.perturb(x, batch.label[rows], generator)
        step = self.losses_of(batch, rows, x)
        loss = mean_loss(step.losses, step.weights, self._total_weight(step.weights))
        if self.logs_now:
            parts = {"accuracy": step.clean, "robust_accuracy": step.attacked}
            self.log_step(loss, **{name: right.float().mean() for name, right in parts.items() if len(right)})
        return loss

    def losses_of(self, batch: Batch, rows: Tensor, x: Tensor) -> StepLosses:
        """Cross-entropy of clean samples in B and attacked ones in A; ``x`` [K, ...]: those at ``rows``, attacked."""
        others = torch.ones_like(batch.label, dtype=torch.bool).index_fill(0, rows, False).nonzero().squeeze(1)
        clean, attacked = two_parts(self.model, batch.image[others], x, joint=self.joint)
        label = batch.label[torch.cat([others, rows])]
        losses = F.cross_entropy(torch.cat([clean, attacked]), label, reduction="none")
        losses[len(others) :] += self.penalty(batch, rows, attacked)
        weights = torch.ones_like(losses)
        weights[len(others) :] = self.weight
        right = predicted(clean) == label[: len(others)], predicted(attacked) == label[len(others) :]
        return StepLosses(losses, weights, *right)

    def _total_weight(self, weights: Tensor) -> Tensor | int:
        """Divisor of the weighted losses, from all processes, as their batches have different shares of A."""
        if self.average == "plain":
            return len(weights)
        total = weights.sum()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total / self.trainer.world_size

    def penalty(self, batch: Batch, rows: Tensor, attacked: Tensor) -> Tensor:
        """Penalty of temporal ensembling on the attacked samples, float32 [K]; zeros without it."""
        if self.ensemble is None:
            return attacked.new_zeros(len(rows))
        return self.ensemble.penalty(self.model, self.global_step, batch.index[rows], batch.image[rows], attacked)

    # --- before and after the steps --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.subset = choose(self.subset_config, self.data)  # here, as callbacks start before on_fit_start
        self.weight = weight_of_attacked(
            len(self.subset.index), self.subset.samples - len(self.subset.index), self.scheme
        )
        self.lookup = self.subset.lookup()

    def on_fit_start(self) -> None:
        self.lookup = self.lookup.to(self.device)

    @classmethod
    def class_groups(cls, facts: Mapping[str, Any], classes: Sequence[str]) -> dict[str, list[str]]:
        """A, the classes that were attacked, and B, the others; none if A is no set of classes."""
        attacked = facts.get("attacked_classes")
        if attacked is None:
            return {}
        return {"a": list(attacked), "b": [name for name in classes if name not in attacked]}

    def weights(self) -> dict[str, Tensor]:
        best = None if self.stopping is None else self.stopping.best
        return super().weights() if best is None else best

    def conclude(self, folder: Path, ending: str) -> list[Path]:
        if self.subset is not None and self.trainer.is_global_zero:
            write_index(folder / ATTACKED, self.subset.index, self.data.sample_facts())
        return []

    def facts(self) -> dict[str, Any]:
        if self.subset is None:
            return {}
        return {
            "attacked_classes": None if self.subset.classes is None else list(self.subset.classes),
            "attacked_samples": len(self.subset.index),
            "training_samples": self.subset.samples,
            "attacked_checksum": self.subset.checksum(),
            "attacked_weight": self.weight,
            **({} if self.stopping is None else self.stopping.facts()),
        }


class SubsetAdversarialTraining(AdversarialTraining):
    """SAT with PGD on cross-entropy (Losch 2024, ch. 3); if A is all of the data, Madry et al. 2018."""

    def __init__(self, model: nn.Module, info: DatasetInfo, *, attack: Mapping[str, Any], **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.attack = PgdConfig(**attack)
        self.step_size = self.attack.step_size or 2.5 * self.epsilon / self.attack.steps
        reach = self.step_size * (self.attack.steps - self._unused_steps())
        if reach < self.epsilon * (1 - 1e-9) and not self.attack.random_start:
            say(
                f"warning: the training's attack reaches {reach:.4g} and not method.epsilon={self.epsilon:.4g}; choose "
                "more method.attack.steps, a larger method.attack.step_size or method.attack.score_last=true"
            )

    def _unused_steps(self) -> int:
        return int(self.attack.keep == "best" and not self.attack.score_last)

    def derived(self) -> dict[str, float]:
        return {"step_size": self.step_size}

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        attack = self.attack
        return pgd(
            self.model,
            x,
            y,
            self.epsilon,
            step_size=self.step_size,
            steps=attack.steps,
            random_start=attack.random_start,
            keep=attack.keep,  # type: ignore[arg-type]  # checked by the schema
            score_last=attack.score_last,
            generator=generator,
            **self.threat,
        )


class Trades(AdversarialTraining):
    """TRADES on A (Zhang et al. 2019): cross-entropy on all clean samples, beta times the divergence on those of A."""

    def __init__(
        self, model: nn.Module, info: DatasetInfo, *, beta: float, attack: Mapping[str, Any], **shared: Any
    ) -> None:
        super().__init__(model, info, **shared)
        self.beta, self.attack = beta, TradesAttackConfig(**attack)
        self.step_size = self.attack.step_size or 2 * self.epsilon / self.attack.steps

    def derived(self) -> dict[str, float]:
        return {"step_size": self.step_size}

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return trades_attack(
            self.model,
            x,
            self.epsilon,
            step_size=self.step_size,
            steps=self.attack.steps,
            generator=generator,
            **self.threat,
        )

    def losses_of(self, batch: Batch, rows: Tensor, x: Tensor) -> StepLosses:
        clean, attacked = two_parts(self.model, batch.image, x, joint=self.joint)
        losses = F.cross_entropy(clean, batch.label, reduction="none")
        losses = losses.index_add(
            0, rows, self.beta * divergence(clean[rows], attacked) + self.penalty(batch, rows, attacked)
        )
        weights = torch.ones_like(losses).index_fill(0, rows, self.weight)
        return StepLosses(losses, weights, predicted(clean) == batch.label, predicted(attacked) == batch.label[rows])


class FastAdversarialTraining(AdversarialTraining):
    """FGSM from a random start (Wong et al. 2020), watched for catastrophic overfitting."""

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        *,
        step_size: float | None,
        monitor: MonitorConfig | Mapping[str, Any],
        **shared: Any,
    ) -> None:
        super().__init__(model, info, **shared)
        self.step_size = step_size or 1.25 * self.epsilon
        config = monitor if isinstance(monitor, MonitorConfig) else MonitorConfig(**monitor)
        self.alarm = OverfittingAlarm(config, self.epsilon, self.threat, self.step_size)

    def configure_callbacks(self) -> list[L.Callback]:
        return [*super().configure_callbacks(), self.alarm]

    def derived(self) -> dict[str, float]:
        return {"step_size": self.step_size}

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return fgsm_rs(
            self.model,
            x,
            y,
            self.epsilon,
            step_size=self.step_size,
            generator=generator,
            **self.threat,
        )

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **self.alarm.facts()}
