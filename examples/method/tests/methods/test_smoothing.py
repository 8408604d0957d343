"""The loss against torch's own."""

import pytest
import torch
from torch.nn import functional as F
from trust_exp.methods.smoothing.core import smoothed_cross_entropy


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_loss_is_that_of_torch(share):
    logits, label = torch.randn(20, 7, dtype=torch.float64), torch.arange(20) % 7
    expected = F.cross_entropy(logits, label, label_smoothing=share)
    assert smoothed_cross_entropy(logits, label, share).item() == pytest.approx(expected.item(), rel=1e-12)
