"""Ordinary training: the baseline of every table."""

import torch.nn.functional as F
from torch import Tensor

from trust_exp.data.batch import Batch
from trust_exp.methods.base import Method


class Standard(Method):
    """Cross-entropy on clean images."""

    def training_step(self, batch: Batch, _: int) -> Tensor:
        logits = self.model(batch.image).float()
        loss = F.cross_entropy(logits, batch.label)
        if self.logs_now:
            self.log_step(loss, accuracy=(logits.argmax(1) == batch.label).float().mean())
        return loss
