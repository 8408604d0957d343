"""A classifier that weighs its classes as a second data set has them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.methods.base import GradientMethod


class Paired(GradientMethod):
    """Cross-entropy in which a class counts as often as it occurs in the second set.

    Args:
        concepts: the second set, prepared.
    """

    weight: Tensor

    def __init__(self, model: nn.Module, info: DatasetInfo, concepts: DataModule, **common: Any) -> None:
        super().__init__(model, info, **common)
        counts = torch.bincount(concepts.served_labels("train"), minlength=len(info.classes))
        self.register_buffer("weight", counts / counts.float().mean())

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = F.cross_entropy(self.model(batch.image).float(), batch.label, self.weight)
        if self.logs_now:
            self.log_step(loss)
        return loss
