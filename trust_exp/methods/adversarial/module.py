"""A training step of each method of this family; the maths is in core.py, which samples are attacked in subset.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.ball import Norm
from trust_exp.attacks.pgd import fgsm_rs, pgd, trades_attack
from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.data.subset import ATTACKED, write_index
from trust_exp.errors import UserError
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
from trust_exp.results.table import say
from trust_exp.rng import keyed_generator

CHECKPOINT = "adversarial"  # where a checkpoint keeps what this family adds


class Outcome(NamedTuple):
    """Of a step's samples: losses float32 [B] and their weights [B]; which of the clean and attacked are right."""

    losses: Tensor
    weights: Tensor
    clean: Tensor
    attacked: Tensor


class AdversarialTraining(GradientMethod):
    """Training that attacks the samples of A and no others; each method says how, and what the loss is.

    Args:
        norm, epsilon: of the attack, in the data's own units.
        subset: which samples A has, a SubsetConfig or its fields.
        weights, average: of the loss, see core.py.
        batch_norm: joint: clean and attacked samples share its statistics; split: see ``two_parts``.
        stopping: a StoppingConfig or its fields; None: the weights of the last step are kept.
        ensembling: an EnsemblingConfig or its fields; None: nothing holds predictions near their mean.

    Raises:
        UserError: when the training begins, if A cannot be chosen so, or ensembling is asked of several processes.
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
        self.norm, self.epsilon = norm, epsilon
        self.subset_config = subset if isinstance(subset, SubsetConfig) else SubsetConfig(**subset)
        self.scheme, self.average, self.joint = weights, average, batch_norm == "joint"
        self.stopping_config = StoppingConfig(**stopping) if isinstance(stopping, Mapping) else stopping
        self.ensembling_config = EnsemblingConfig(**ensembling) if isinstance(ensembling, Mapping) else ensembling
        self.subset: Subset | None = None
        self.ensemble: TemporalEnsemble | None = None
        self.stopping: EarlyStopping | None = None
        self._resumed: dict[str, Any] = {}

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial examples of x, [K, ...]."""
        raise NotImplementedError

    @property
    def data(self) -> DataModule:
        """What is trained on."""
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    # --- a step --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, _: int) -> Tensor:
        rows = rows_in(self.lookup, batch.index)
        x = batch.image[rows]
        if len(rows):
            # The step and not the number of draws: a resumed run attacks as it would have.
            x = self.perturb(
                x, batch.label[rows], keyed_generator(self.data.seed, "attack", self.global_step, self.global_rank)
            )
        outcome = self.outcome(batch, rows, x)
        loss = mean_loss(outcome.losses, outcome.weights, self._total_weight(outcome.weights))
        if self.logs_now:
            parts = {"accuracy": outcome.clean, "robust_accuracy": outcome.attacked}
            self.log_step(loss, **{name: right.float().mean() for name, right in parts.items() if len(right)})
        return loss

    def outcome(self, batch: Batch, rows: Tensor, x: Tensor) -> Outcome:
        """Cross-entropy of the samples as they are in B, and attacked in A; ``x`` [K, ...] is those at ``rows``."""
        others = torch.ones_like(batch.label, dtype=torch.bool).index_fill(0, rows, False).nonzero().squeeze(1)
        clean, attacked = two_parts(self.model, batch.image[others], x, joint=self.joint)
        label = batch.label[torch.cat([others, rows])]
        losses = F.cross_entropy(torch.cat([clean, attacked]), label, reduction="none")
        losses[len(others) :] += self.penalty(batch, rows, attacked)
        weights = torch.ones_like(losses)
        weights[len(others) :] = self.weight
        right = clean.argmax(1) == label[: len(others)], attacked.argmax(1) == label[len(others) :]
        return Outcome(losses, weights, *right)

    def _total_weight(self, weights: Tensor) -> Tensor | int:
        """What the weighted losses are divided by: of all processes, as each has another share of A in its batch."""
        if self.average == "plain":
            return len(weights)
        total = weights.sum()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total / self.trainer.world_size

    def penalty(self, batch: Batch, rows: Tensor, attacked: Tensor) -> Tensor:
        """What temporal ensembling adds to the losses of the attacked samples, float32 [K]; zeros without it."""
        if self.ensemble is None:
            return attacked.new_zeros(len(rows))
        return self.ensemble.penalty(self.model, self.global_step, batch.index[rows], batch.image[rows], attacked)

    # --- before, between and after the steps -----------------------------------------------------------------------

    def on_fit_start(self) -> None:
        self.subset = choose(self.subset_config, self.data)
        self.lookup = self.subset.lookup().to(self.device)
        self.weight = weight_of_attacked(
            len(self.subset.index), self.subset.samples - len(self.subset.index), self.scheme
        )
        if self.ensembling_config is not None:
            if self.trainer.world_size > 1:
                raise UserError(
                    "method.ensembling keeps the mean of each sample's predictions in one process; choose "
                    "accelerator.devices=1 and accelerator.nodes=1, or method.ensembling=null"
                )
            self.ensemble = TemporalEnsemble(
                self.ensembling_config, self.subset.index.to(self.device), len(self.info.classes), self.total_steps
            )
            if "ensembling" in self._resumed:
                self.ensemble.mean.copy_(self._resumed["ensembling"])
        if self.stopping_config is not None:
            self.stopping = EarlyStopping(self.stopping_config, self.norm, self.epsilon, self.total_steps, self.data)
            if "stopping" in self._resumed:
                self.stopping.load_state_dict(self._resumed["stopping"])

    # Before a step and not after it: callbacks that save come first after a step, and a check that a checkpoint missed
    # is made when the run goes on.
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.between_steps()

    def on_train_end(self) -> None:
        self.between_steps()

    def on_fit_end(self) -> None:
        self.between_steps()  # of a run that was stopped after its last step, which trains no more

    def between_steps(self) -> None:
        """What is looked at when its step has come."""
        stopping = self.stopping
        if stopping is not None and stopping.due(self.global_step):
            self._share_buffers()
            accuracy = stopping.check(
                self.model, self.global_step, self._total, self.trainer.global_rank, self.trainer.world_size
            )
            self._log_now(stopping_accuracy=accuracy)

    def _share_buffers(self) -> None:
        """Give every process the batch-norm statistics of the first, as at the next step."""
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _total(self, count: int) -> int:
        if self.trainer.world_size == 1:
            return count
        counts: list[int] = [0] * self.trainer.world_size
        torch.distributed.all_gather_object(counts, count)
        return sum(counts)

    def _log_now(self, **values: float) -> None:
        """A point of a curve of its own, whether or not this step is logged."""
        for logger in self.loggers if self.trainer.is_global_zero else ():
            logger.log_metrics({f"train/{name}": value for name, value in values.items()}, step=self.global_step)

    # --- what is kept ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT] = self.extra_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get(CHECKPOINT, {})

    def extra_state(self) -> dict[str, Any]:
        """What a resumed training needs beside the weights."""
        state: dict[str, Any] = {} if self.ensemble is None else {"ensembling": self.ensemble.mean}
        return state if self.stopping is None else {**state, "stopping": self.stopping.state_dict()}

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

    def conclude(self, folder: Path) -> list[Path]:
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
    """SAT with PGD on the cross-entropy (Losch 2024, ch. 3); with A all of the data that of Madry et al. 2018."""

    def __init__(self, model: nn.Module, info: DatasetInfo, *, attack: Mapping[str, Any], **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.attack = PgdConfig(**attack)
        self.step_size = self.attack.step_size or 2.5 * self.epsilon / self.attack.steps
        reach = self.step_size * (self.attack.steps - self._unused_steps())
        if reach < self.epsilon * (1 - 1e-9) and not self.attack.random_start:
            say(
                f"warning: the attack of the training reaches {reach:.4g} and not method.epsilon={self.epsilon:.4g}; "
                "choose more method.attack.steps, a larger method.attack.step_size or method.attack.score_last=true"
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
            norm=self.norm,
            step_size=self.step_size,
            steps=attack.steps,
            random_start=attack.random_start,
            keep=attack.keep,  # type: ignore[arg-type]  # checked by the schema
            score_last=attack.score_last,
            domain=self.info.domain,
            generator=generator,
        )


class Trades(AdversarialTraining):
    """TRADES on A (Zhang et al. 2019): cross-entropy on all clean samples, beta times the divergence on A's."""

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
            norm=self.norm,
            step_size=self.step_size,
            steps=self.attack.steps,
            domain=self.info.domain,
            generator=generator,
        )

    def outcome(self, batch: Batch, rows: Tensor, x: Tensor) -> Outcome:
        clean, attacked = two_parts(self.model, batch.image, x, joint=self.joint)
        losses = F.cross_entropy(clean, batch.label, reduction="none")
        losses = losses.index_add(
            0, rows, self.beta * divergence(clean[rows], attacked) + self.penalty(batch, rows, attacked)
        )
        weights = torch.ones_like(losses).index_fill(0, rows, self.weight)
        return Outcome(losses, weights, clean.argmax(1) == batch.label, attacked.argmax(1) == batch.label[rows])


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
        self.monitor_config = monitor if isinstance(monitor, MonitorConfig) else MonitorConfig(**monitor)
        self.alarm: OverfittingAlarm | None = None

    def derived(self) -> dict[str, float]:
        return {"step_size": self.step_size}

    def perturb(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return fgsm_rs(
            self.model,
            x,
            y,
            self.epsilon,
            norm=self.norm,
            step_size=self.step_size,
            domain=self.info.domain,
            generator=generator,
        )

    def on_fit_start(self) -> None:
        super().on_fit_start()
        served, samples = self.data.served("train"), self.monitor_config.samples
        attacked = torch.isin(served, self.subset.index if self.subset else served).nonzero().squeeze(1)
        spread = torch.linspace(0, len(attacked) - 1, min(samples, len(attacked))).long()
        image, label, *_ = self.data.samples("train", attacked[spread])
        self.alarm = OverfittingAlarm(
            self.monitor_config,
            self.info,
            self.norm,
            self.epsilon,
            self.step_size,
            image,
            label,
            self.data.seed,
        )
        if "alarm" in self._resumed:
            self.alarm.load_state_dict(self._resumed["alarm"])

    def between_steps(self) -> None:
        super().between_steps()
        every = self.monitor_config.every or self.trainer.num_training_batches
        if self.alarm is None or not self.alarm.due(self.global_step, int(every)):
            return
        found, first = self.alarm.check(self.model, self.global_step)
        self._log_now(**found)
        if first and self.trainer.is_global_zero:
            say(
                f"warning: catastrophic overfitting at step {self.global_step}: accuracy {found['pgd_accuracy']:.1%} "
                f"under PGD, {found['fgsm_accuracy']:.1%} under the single step of the training; a smaller "
                "method.step_size or method=sat helps"
            )

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        return state if self.alarm is None else {**state, "alarm": self.alarm.state_dict()}

    def facts(self) -> dict[str, Any]:
        raised_at = None if self.alarm is None or self.alarm.raised_at < 0 else self.alarm.raised_at
        return {**super().facts(), "catastrophic_overfitting_at": raised_at}
