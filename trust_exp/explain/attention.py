"""Where the first derivatives of a code look, without any part in the training (Liu et al. 2020)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.func import grad

TINY = 1e-30


def offline_attention(tail: Callable[[Tensor], Tensor], layer: Float[Tensor, "b f h w"]) -> Float[Tensor, "b h w"]:
    """How strongly the filters that the sum of the code's means depends on respond at each place.

    The absolute value of the sum of filters, each weighted by the mean over places of its gradient; the gradients of an
    image are scaled to a mean square of 1. Samples of a batch must not depend on each other.

    Args:
        tail: maps the layer to the means of the code, [B, d].
        layer: a convolution's output, before its activation.

    Source: Liu et al. 2020 (Towards Visually Explaining Variational Autoencoders), sec. 3.1; the scale is that of their
    released code, there over the batch.
    """
    slope = grad(lambda values: tail(values).sum())(layer)
    slope = slope * (slope.square().mean((1, 2, 3), keepdim=True) + TINY).rsqrt()
    found: Tensor = (slope.mean((2, 3), keepdim=True) * layer).sum(1).abs()
    return found
