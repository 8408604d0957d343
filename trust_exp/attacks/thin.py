"""A faster gradient with respect to the image through a network's first convolution, on a CPU.

oneDNN pads the channels of this gradient to a full register, so one or three of them cost as much as sixteen. A matrix
product and a sum over overlapping windows give the same, 1.7 to 6 times as fast (benchmarks/README.md).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_CHANNELS = 4  # most input channels for which this is faster; at eight oneDNN wins


class _ThinConvolution(torch.autograd.Function):
    """A convolution with a constant weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d) -> Tensor:
        ctx.layer, ctx.size = layer, x.shape[2:]
        ctx.save_for_backward(layer.weight)
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer, (weight,) = ctx.layer, ctx.saved_tensors
        windows = weight.flatten(1).t() @ gradient.flatten(2)
        size, kernel = ctx.size, layer.kernel_size
        return F.fold(windows, size, kernel, layer.dilation, layer.padding, layer.stride), None


@contextmanager
def thin_convolutions(model: nn.Module) -> Iterator[None]:
    """Use this gradient in the convolutions of ``model`` that have few input channels; outputs stay bit-equal.

    For networks whose parameters need no gradient. Unchanged are layers on other devices or of other kinds, with
    padding other than zeros, with groups or with their own forward; and all layers under autocast or when compiled.
    """
    with ExitStack() as undo:
        if not hasattr(model, "_orig_mod"):  # a compiled model would be recompiled
            for layer in model.modules():
                if _is_thin(layer):
                    layer.forward = _forward_of(layer)  # type: ignore[method-assign]
                    undo.callback(delattr, layer, "forward")
        yield


def _is_thin(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and "forward" not in vars(layer)
        and layer.in_channels <= _CHANNELS
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype in (torch.float32, torch.float64)
    )


def _forward_of(layer: nn.Conv2d) -> Any:
    def forward(x: Tensor) -> Tensor:
        if layer.weight.requires_grad or torch.is_autocast_enabled("cpu") or x.dim() != 4:
            return nn.Conv2d.forward(layer, x)
        out: Tensor = _ThinConvolution.apply(x, layer)
        return out

    return forward
