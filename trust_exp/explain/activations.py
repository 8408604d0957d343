"""Activations with their first derivatives, as one operation whose gradient is written out."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Derivatives = tuple[Tensor, Tensor, Tensor]


def _silu(x: Tensor) -> Derivatives:
    share = x.sigmoid()
    value, rest = x * share, 1 - share
    return value, share + value * rest, share * rest * (2 + x - 2 * value)


def _silu_third(x: Tensor) -> Tensor:
    share = x.sigmoid()
    product, turn = share * (1 - share), 1 - 2 * share
    return product * (turn * (3 + x * turn) - 2 * x * product)


def _tanh(x: Tensor) -> Derivatives:
    value = x.tanh()
    slope = 1 - value * value
    return value, slope, -2 * value * slope


def _tanh_third(x: Tensor) -> Tensor:
    square = x.tanh().square()
    return (1 - square) * (6 * square - 2)


def _softplus(x: Tensor) -> Derivatives:
    share = x.sigmoid()
    return F.softplus(x), share, share * (1 - share)


def _softplus_third(x: Tensor) -> Tensor:
    share = x.sigmoid()
    return share * (1 - share) * (1 - 2 * share)


def _elu(x: Tensor) -> Derivatives:
    value, negative = F.elu(x), (x <= 0).to(x)
    return value, torch.where(x > 0, 1.0, value + 1), (value + 1) * negative


def _elu_third(x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.0, F.elu(x) + 1)


def _density(x: Tensor) -> Tensor:
    return (x.square() / -2).exp() / math.sqrt(2 * math.pi)


def _gelu(x: Tensor) -> Derivatives:
    share, density = torch.special.ndtr(x), _density(x)
    return x * share, share + x * density, density * (2 - x.square())


def _gelu_third(x: Tensor) -> Tensor:
    return _density(x) * x * (x.square() - 4)


def _relu(x: Tensor) -> Derivatives:
    return x.relu(), (x > 0).to(x), torch.zeros_like(x)


BENDS: dict[str, tuple[Callable[[Tensor], Derivatives], Callable[[Tensor], Tensor]]] = {
    "silu": (_silu, _silu_third),
    "tanh": (_tanh, _tanh_third),
    "softplus": (_softplus, _softplus_third),
    "elu": (_elu, _elu_third),
    "gelu": (_gelu, _gelu_third),
    "relu": (_relu, torch.zeros_like),
}


class _Bent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, activation: str) -> Derivatives:
        return BENDS[activation][0](x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Derivatives) -> None:
        x, ctx.activation = inputs
        ctx.save_for_backward(x, output[1], output[2])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        x, first, second = ctx.saved_tensors
        value, of_first, of_second = slopes
        return value * first + of_first * second + of_second * BENDS[ctx.activation][1](x), None


def bent(x: Tensor, activation: str) -> Derivatives:
    """An activation and its first and second derivatives, each of the shape of ``x``; all can be differentiated.

    Args:
        activation: a key of ``BENDS``.
    """
    found: Derivatives = _Bent.apply(x, activation)
    return found
