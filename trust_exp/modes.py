"""A network in eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode while the body runs; afterwards, and after an exception too, every module has its own flag back."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # Through train() first: a model may keep caches there; then flag by flag, as parts may have been frozen.
        model.train(training[0][1])
        for module, flag in training:
            module.training = flag
