"""Gradient times input (Shrikumar et al. 2017): which pixels a logit rests on, to first order."""

import torch
from torch import Tensor, nn


def gradient_times_input(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """|sum over channels of x * d logit / d x|, float32 [B, H, W].

    Args:
        model: maps images to logits [B, C].
        image: float32 [B, C, H, W].
        label: whose logit, int64 [B].

    Source: Shrikumar et al. 2017, sec. 2.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = image.clone().requires_grad_()
        logit = model(x).gather(1, label[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, x)
    return (x.detach() * gradient).sum(1).abs()
