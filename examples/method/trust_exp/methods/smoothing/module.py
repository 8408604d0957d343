"""A training step with smoothed labels."""

from typing import Any

from torch import Tensor, nn
from trust_exp.methods.smoothing.core import smoothed_cross_entropy

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.methods.base import GradientMethod


class Smoothing(GradientMethod):
    """Trains any classifier with smoothed labels."""

    def __init__(self, model: nn.Module, info: DatasetInfo, *, share: float, **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.share = share

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = smoothed_cross_entropy(self.model(batch.image).float(), batch.label, self.share)
        if self.logs_now:
            self.log_step(loss)
        return loss
