"""The state a model is in while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from trust_exp.attacks.thin import thin_convolutions
from trust_exp.modes import evaluating


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients enabled, also below ``Trainer.test``; all restored on exit.

    Afterwards, and after an exception too, every module has its own training flag back and every parameter its own
    ``requires_grad``; ``.grad`` and batch-norm statistics were never touched. Inference tensors must be cloned inside
    before they meet autograd.
    """
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with evaluating(model), torch.inference_mode(False), torch.enable_grad(), thin_convolutions(model):
            yield
    finally:
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
