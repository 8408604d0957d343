"""The state of a model under attack."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from trust_exp.attacks.thin import thin_convolutions
from trust_exp.modes import evaluating


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters, gradients enabled (even under ``Trainer.test``); all restored on exit.

    On exit, also by an exception, every module gets back its training flag and every parameter its ``requires_grad``.
    ``.grad`` and batch-norm statistics are never touched. Clone inference tensors inside before autograd sees them.
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
