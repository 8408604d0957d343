"""A training step on pixel labels."""

from torch import Tensor
from torch.nn import functional as F

from trust_exp.data.batch import DenseBatch
from trust_exp.data.config import UNKNOWN
from trust_exp.methods.base import GradientMethod


class Segmenter(GradientMethod):
    """Cross-entropy of each labelled pixel."""

    def training_step(self, batch: DenseBatch, _: int) -> Tensor:
        loss = F.cross_entropy(self.model(batch.image).float(), batch.label, ignore_index=UNKNOWN)
        if self.logs_now:
            self.log_step(loss)
        return loss
