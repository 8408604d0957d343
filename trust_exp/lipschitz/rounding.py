"""Certified radii of a network as it is computed: its Lipschitz bound, less a bound on its rounding.

What is certified is the float32 forward pass, not the function that it approximates. Around each image x, and layer by
layer,

    ||computed(x') - exact(x)||_2 <= rounding + drift * ||x' - x||_2        for every x' that float32 can hold.

docs/certificates.md proves it and says what it takes for granted.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.lipschitz.bound import LipschitzBound, find_rule, lipschitz_constant, with_plain_weights
from trust_exp.lipschitz.certificate import certified_radius
from trust_exp.lipschitz.layers import MinMax, Normalize, Residual
from trust_exp.lipschitz.norms import ROUNDING as SLACK

# Results between a batch norm's statistics and its output, in whatever order a kernel takes them, with a reciprocal
# square root that is off by four units.
BATCH_NORM_STEPS = 16

# Smaller weights may be flushed to zero. Counted as this large, their rounding outweighs what that loses.
LEAST_WEIGHT = 2.0**-100


@dataclass(frozen=True)
class Steps:
    """All results on the way to each of a layer's outputs, itself included; each is rounded once.

    Attributes:
        count: how many there are for one output, at most.
        size: [B], L2 norm over the outputs of the sum of their absolute values in the worst order, at the exact inputs.
        slope: how much ``size`` grows with the L2 distance from the exact inputs, at most.
    """

    count: int
    size: Tensor
    slope: Any


@dataclass(frozen=True)
class Around:
    """What a layer's outputs can be, computed for any input within r of each image.

    Attributes:
        exact: float64 [B, ...], the outputs for the images.
        rounding, drift: [B] and a number; the computed outputs are within ``rounding + drift * r`` of ``exact``, in L2.
        limit: [B], a radius r within which nothing overflows.
    """

    exact: Float64[Tensor, "B ..."]
    rounding: Float64[Tensor, " B"]
    drift: float
    limit: Float64[Tensor, " B"]


@contextmanager
def plain_products() -> Iterator[None]:
    """Convolutions and matrix products add up the products of their definition, as the bound takes for granted.

    No Winograd and FFT kernels, of cuDNN and of NNPACK, and no TF32.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class Certifier:
    """Certified L2 radii of a classifier, for its forward pass in the precision of its weights.

    A float64 copy of the network gives exact logits and, in the same pass, the bound on the rounding.

    Args:
        model: (nested) ``nn.Sequential`` of layers in ``RULES`` and ``ROUNDING`` that ends in ``nn.Linear``; float32
            or float64; in any mode, and certified in eval mode.
        input_shape: one input's shape, without the batch.

    Attributes:
        bound: the Lipschitz constants of the exact network.

    Raises:
        UserError: for a layer without a known constant or rounding, and for weights of another precision.

    Source: Losch 2024, Eq. 4.8; for rounding Higham 2002, Accuracy and Stability of Numerical Algorithms, ch. 3.
    """

    def __init__(self, model: nn.Sequential, input_shape: tuple[int, ...]) -> None:
        dtypes = {value.dtype for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()}
        if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
            raise UserError(f"certificates need float32 or float64 weights; got {', '.join(sorted(map(str, dtypes)))}")
        self.precision = torch.finfo(dtypes.pop())
        self.network = with_plain_weights(model).double().eval()
        if any(layer.training for layer in self.network.modules()):
            raise UserError(f"{type(model).__name__} cannot be put into eval mode, in which networks are certified")
        self.lipschitz = LipschitzBound(self.network, input_shape)
        self.context = self.lipschitz.certified_context()
        self.bound = self.lipschitz.certified(self.context)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B ..."]) -> Float64[Tensor, "B C"]:
        """Exact logits, float64 [B, C]."""
        logits: Tensor = self.network(images.double())
        return logits

    @torch.no_grad()
    def around(self, images: Float[Tensor, "B ..."]) -> Around:
        """What the inputs of the last layer can be around each image."""
        zeros = images.new_zeros(len(images), dtype=torch.float64)
        around = Around(images.double(), zeros, 1.0, zeros + torch.inf)
        for layer in self.lipschitz.body:
            around = self._after(layer, around)
        return around

    @torch.no_grad()
    def radius(self, images: Float[Tensor, "B ..."]) -> tuple[Float64[Tensor, "B C"], Float64[Tensor, " B"]]:
        """Exact logits, float64 [B, C], and certified radii, float64 [B], at least 0.

        Every input of the network's precision whose L2 distance from an image is below its radius is computed to be of
        the class ``logits.argmax(1)``, the image itself included, if it is computed with ``plain_products``.
        """
        around = self.around(images)
        head = self.lipschitz.head
        logits: Tensor = head(around.exact)
        weight = _magnitudes(head.weight)
        each = _each(F.linear, around.exact, weight, head.bias).double()
        rows = torch.linalg.vector_norm(weight, dim=1)
        own, slope, limit = self._own_rounding(_sums(head.in_features, each, logits, rows), around, outputs=1)
        pairs = (self.bound.distances + slope + slope.unsqueeze(1)).fill_diagonal_(0) * (1 + SLACK)
        top = logits.argmax(1, keepdim=True)
        allowance = own + own.gather(1, top) + pairs[top.squeeze(1)] * around.rounding.unsqueeze(1)
        radius = certified_radius(logits, pairs * around.drift, allowance=allowance * (1 + SLACK))
        return logits, torch.minimum(radius, limit.amin(1)).nan_to_num(0.0, torch.inf) * (1 - SLACK)

    def _after(self, layer: nn.Module, before: Around) -> Around:
        """What the outputs of a layer can be, from what its inputs can be."""
        if isinstance(layer, nn.Sequential):
            for child in layer:
                before = self._after(child, before)
            return before
        if isinstance(layer, Residual):
            one = self._after(layer.main, before)
            other = before if layer.shortcut is None else self._after(layer.shortcut, before)
            limit = torch.minimum(one.limit, other.limit)
            both = Around(one.exact + other.exact, one.rounding + other.rounding, one.drift + other.drift, limit)
            return self._rounded(both, both, Steps(1, _norm(both.exact), 1.0))
        constant = float(lipschitz_constant(layer, self.context)) * (1 + SLACK)
        exact = layer(before.exact)
        after = Around(exact, before.rounding * constant, before.drift * constant, before.limit)
        steps = find_rule(layer, ROUNDING, "bound on the rounding")(layer, before.exact, exact, constant)
        return after if steps is None else self._rounded(after, before, steps)

    def _rounded(self, after: Around, before: Around, steps: Steps) -> Around:
        """``after``, with the rounding of the layer itself."""
        own, slope, limit = self._own_rounding(steps, before, outputs=after.exact[0].numel())
        rounding = after.rounding + own + slope * before.rounding
        return Around(after.exact, rounding, after.drift + slope * before.drift, torch.minimum(after.limit, limit))

    def _own_rounding(self, steps: Steps, before: Around, outputs: int) -> tuple[Tensor, Any, Tensor]:
        """A layer's own rounding at the exact inputs, its growth with the distance from them, and the limit on r."""
        unit = (self.precision.eps + torch.finfo(torch.float64).eps) / 2  # the float64 copy rounds as well
        if steps.count * unit > 0.5:
            raise UserError(f"{steps.count} steps to one output are too many to bound their rounding")
        share = unit / (1 - steps.count * unit) * (1 + SLACK)
        # Results and inputs below the smallest normal number may be flushed to zero.
        flushed = steps.count * (math.sqrt(outputs) + steps.slope * math.sqrt(before.exact[0].numel()))
        own, slope = share * steps.size + self.precision.tiny * flushed, share * steps.slope
        rounding = before.rounding if own.dim() == 1 else before.rounding.unsqueeze(1)
        limit = (unit * self.precision.max / 2 - own - slope * rounding) / (slope * before.drift)
        return own, slope, limit.clamp_min(0)


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)


def _magnitudes(weight: Tensor) -> Tensor:
    return weight.abs().clamp_min(LEAST_WEIGHT)


def _each(operation: Callable[..., Tensor], x: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    """At least the sums of the absolute values of products and offset, [B, ...], from the magnitudes of a weight.

    Added up in float32: no sum of non-negative numbers loses more than a share of 2^-24 for each term, which is put on
    top again.
    """
    products = weight[0].numel()
    share = (products + 4) * torch.finfo(torch.float32).eps / 2  # each of the three numbers is rounded to float32 first
    if share > 0.1:
        raise UserError(f"{products} products in one output are too many to bound their rounding")
    with plain_products():
        each = operation(x.abs().float(), weight.float(), None if offset is None else offset.abs().float())
    return each.mul_(1 + 2 * share)


def _linear(layer: nn.Linear, x: Tensor, exact: Tensor, constant: float) -> Steps:
    weight = _magnitudes(layer.weight)
    slope = math.sqrt(weight.sum(0).max() * weight.sum(1).max())
    return _sums(layer.in_features, _norm(_each(F.linear, x, weight, layer.bias)), _norm(exact), slope)


def _convolution(layer: nn.Conv2d, x: Tensor, exact: Tensor, constant: float) -> Steps:
    weight = _magnitudes(layer.weight)
    columns = weight.unflatten(0, (layer.groups, -1)).sum((1, 3, 4))
    slope = math.sqrt(columns.max() * weight.sum((1, 2, 3)).max())

    def convolve(x: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, offset, layer.stride, layer.padding, layer.dilation, layer.groups)

    return _sums(weight[0].numel(), _norm(_each(convolve, x, weight, layer.bias)), _norm(exact), slope)


def _sums(products: int, each: Tensor, exact: Tensor, slope: Any) -> Steps:
    """Steps of sums of products and an offset, added in any order.

    Args:
        each: sums of the absolute values, or their norm over the outputs.
        exact: the sums themselves, or their norm. A partial sum is at most that of all positive or that of all negative
            terms, (each + |exact|) / 2.
        slope: growth of ``each``.
    """
    return Steps(2 * products, each + products * (each + exact.abs()) / 2, (products + 1) * slope)


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor, exact: Tensor, constant: float) -> Steps:
    channels = (-1, *[1] * (x.dim() - 2))
    mean, variance = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)  # else it has no constant
    scale = (variance + layer.eps).rsqrt()
    scale = _magnitudes(scale if layer.weight is None else layer.weight * scale)
    offset = _magnitudes(mean) * scale + (0 if layer.bias is None else layer.bias.abs())
    each = x.abs() * scale.view(channels) + offset.view(channels)
    return Steps(BATCH_NORM_STEPS, BATCH_NORM_STEPS * _norm(each), BATCH_NORM_STEPS * scale.max().item())


def _normalize(layer: Normalize, x: Tensor, exact: Tensor, constant: float) -> Steps:
    scale = _magnitudes(layer.std.reciprocal())
    return Steps(3, 3 * _norm(exact), 3 * scale.max().item())


def _min_max(layer: MinMax, x: Tensor, exact: Tensor, constant: float) -> Steps:
    # |first - second| and the output: at most sqrt(2) sqrt(2) and 1 times the norm of the input.
    return Steps(2, 3 * _norm(x), 3.0)


def _leaky_relu(layer: nn.LeakyReLU, x: Tensor, exact: Tensor, constant: float) -> Steps:
    slope = 2 * max(abs(layer.negative_slope), LEAST_WEIGHT)  # the slope itself is rounded, and the product
    return Steps(2, slope * _norm(x), slope)


def _average_pool(layer: nn.AvgPool2d, x: Tensor, exact: Tensor, constant: float) -> Steps:
    height, width = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
    return _averages(height * width, layer(x.abs()), constant)


def _adaptive_average_pool(layer: nn.AdaptiveAvgPool2d, x: Tensor, exact: Tensor, constant: float) -> Steps:
    return _averages(x[0].numel() // exact[0].numel(), layer(x.abs()), constant)


def _averages(area: int, each: Tensor, constant: float) -> Steps:
    count = area + 1  # sums, then a division or a product with a rounded reciprocal
    return Steps(count, count * _norm(each), count * constant)


Rule = Callable[[Any, Tensor, Tensor, float], Steps | None]

# How known layers round: from the layer, its exact inputs and outputs [B, ...] and its Lipschitz constant; None: not at
# all. A layer that only moves or drops values: ROUNDING[MyLayer] = lambda *_: None
ROUNDING: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d), lambda *_: None),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_average_pool,
    nn.LeakyReLU: _leaky_relu,
    MinMax: _min_max,
    Normalize: _normalize,
}
