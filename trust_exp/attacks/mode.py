"""The state a model is in while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from trust_exp.attacks.thin import thin_convolutions


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients enabled, also below ``Trainer.test``; all restored on exit.

    Afterwards, and after an exception too, every module has its own training flag back and every parameter its own
    ``requires_grad``; ``.grad`` and batch-norm statistics were never touched. Inference tensors must be cloned inside
    before they meet autograd.
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), thin_convolutions(model):
            yield
    finally:
        # Through train() first: a model may keep caches there; then flag by flag, as parts may have been frozen.
        model.train(training[0][1])
        for module, flag in training:
            module.training = flag
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
