"""The training step of each loss of this family; core.py has the maths."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.attacks.ball import check_radius
from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.errors import UserError
from trust_exp.lipschitz.bound import Bound, LipschitzBound
from trust_exp.lipschitz.certificate import certified_radius
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.lipschitz_margin.core import (
    calibrated_scale,
    cll_binary_loss,
    cll_loss,
    cll_loss_per_logit,
    gloro_loss,
    lmt_loss,
)
from trust_exp.verdicts import predicted


class LipschitzMargin(GradientMethod):
    """A network trained with its own Lipschitz bound in the loss; each method has its own ``loss``."""

    def __init__(
        self,
        model: nn.Sequential,
        info: DatasetInfo,
        epsilon: float,
        iterations: int,
        through_iterations: bool,
        optimizer: Mapping[str, Any],
        log_every: int = 50,
    ) -> None:
        super().__init__(model, info, optimizer, log_every)
        self.epsilon = epsilon
        self.bound = LipschitzBound(model, info.shape, iterations, through_iterations)

    @classmethod
    def check(cls, options: Mapping[str, Any], info: DatasetInfo) -> None:
        check_radius("method.epsilon", options["epsilon"], "L2", info.domain, info.shape)

    def loss(self, logits: Tensor, label: Tensor, bound: Bound) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Batch, _: int) -> Tensor:
        logits = self.model(batch.image).float()
        bound = self.bound()
        loss = self.loss(logits, batch.label, bound)
        if self.logs_now:
            self._log_margins(loss, logits.detach(), batch.label, bound)
        return loss

    @torch.no_grad()
    def _log_margins(self, loss: Tensor, logits: Tensor, label: Tensor, bound: Bound) -> None:
        right = predicted(logits) == label
        certified = right & (certified_radius(logits, bound.pairwise) > self.epsilon)
        self.log_step(
            loss, accuracy=right.float().mean(), certified=certified.float().mean(), lipschitz=bound.worst.detach()
        )


class CalibratedLipschitzMargin(LipschitzMargin):
    """Calibrated Lipschitz-margin training; see ``CllConfig`` for the options and core.py for the formulas."""

    def __init__(
        self,
        model: nn.Sequential,
        info: DatasetInfo,
        *,
        p: float | None,
        err_quantile: float | None,
        slack_schedule: Mapping[str, float] | None,
        offset: float | None,
        one_sided: bool,
        form: str,
        constants: str,
        detach: bool,
        decay: float,
        k_schedule: Mapping[str, float] | None,
        **shared: Any,
    ) -> None:
        super().__init__(model, info, **shared)
        if form == "binary" and len(info.classes) != 2:
            raise UserError(f"method.form=binary needs two classes; dataset={info.name} has {len(info.classes)}")
        # err_quantile = 2p, so a schedule of one is a schedule of the other
        self.slack, self.slack_factor = (p, 1.0) if p is not None else (float(err_quantile or 0), 0.5)
        self.slack_schedule = slack_schedule
        self.offset = self.epsilon if offset is None else offset
        self.one_sided, self.form, self.constants = one_sided, form, constants
        self.detach, self.decay, self.k_schedule = detach, decay, k_schedule

    def derived(self) -> dict[str, float]:
        scale = calibrated_scale(self.epsilon, self.slack_factor * self.slack)
        return {"scale": scale, "loss_lipschitz": 1 / scale}

    def loss(self, logits: Tensor, label: Tensor, bound: Bound) -> Tensor:
        slack = self.slack_factor * self.scheduled(self.slack, self.slack_schedule)
        scale = calibrated_scale(self.epsilon, slack)
        factor = self.scheduled(1.0, self.k_schedule)
        return self._calibrated(logits, label, bound, factor, scale) + self.decay * bound.worst**2

    def _calibrated(self, logits: Tensor, label: Tensor, bound: Bound, factor: float, scale: float) -> Tensor:
        pairwise = factor * (bound.pairwise.detach() if self.detach else bound.pairwise)
        if self.form == "binary":
            return cll_binary_loss(logits[:, 1] - logits[:, 0], 2.0 * label - 1, pairwise[0, 1], scale, self.offset)
        if self.constants == "pairwise":
            return cll_loss(logits, label, pairwise, scale, self.offset, one_sided=self.one_sided)
        per_logit = factor * bound.per_logit
        per_logit = per_logit.detach() if self.detach else per_logit
        return cll_loss_per_logit(logits, label, per_logit, scale, self.offset, one_sided=self.one_sided)


class GloRo(LipschitzMargin):
    """Globally robust networks (Leino et al. 2021)."""

    def __init__(self, model: nn.Sequential, info: DatasetInfo, *, epsilon_schedule: Any, **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.epsilon_schedule = epsilon_schedule

    def loss(self, logits: Tensor, label: Tensor, bound: Bound) -> Tensor:
        return gloro_loss(logits, label, bound.pairwise, self.scheduled(self.epsilon, self.epsilon_schedule))


class LipschitzMarginTraining(LipschitzMargin):
    """Lipschitz-margin training, LMT (Tsuzuku et al. 2018)."""

    def loss(self, logits: Tensor, label: Tensor, bound: Bound) -> Tensor:
        return lmt_loss(logits, label, bound.total, self.epsilon)
