"""The plain networks of the Lipschitz-margin papers: every layer has a known norm, and the last is linear."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trust_exp.errors import UserError
from trust_exp.lipschitz.layers import MinMax, Normalize

ACTIVATIONS = {"minmax": MinMax, "relu": nn.ReLU}


def classifier(
    body: Sequence[nn.Module] | nn.Sequential,
    head: nn.Linear,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stages: Sequence[str | int] = (),
) -> nn.Sequential:
    """normalize (if given) -> features -> head, initialised as the papers do: Kaiming normal, biases 0.

    Args:
        stages: children of the body that end a stage, the stem first; kept as ``feature_info``, as in timm.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if mean is not None and std is not None:
        if not len(mean) == len(std) == channels:
            raise UserError(f"model.mean and model.std need {channels} values, one a channel; got {mean} and {std}")
        parts["normalize"] = Normalize(mean, std)
    features: Any = body if isinstance(body, nn.Sequential) else nn.Sequential(*body)
    if stages:
        features.feature_info = [{"module": str(name)} for name in stages]
    parts["features"] = features
    parts["head"] = head
    model = nn.Sequential(parts)
    start_kaiming(model)
    return model


def start_kaiming(model: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers Kaiming normal (fan in, gain sqrt 2); their biases are 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def mlp(
    shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int],
    activation: str = "minmax",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """Fully connected network on inputs of ``shape``: hidden layers of ``widths``, then ``classes`` logits.

    The two-moons network is 10-20-40-40-20-10-2 with MinMax (Losch 2024, table B.1).
    """
    size = int(torch.Size(shape).numel())
    body: list[nn.Module] = [] if len(shape) == 1 else [nn.Flatten()]
    for width in widths:
        body += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return classifier(body, nn.Linear(size, classes), shape[0], mean, std)


def conv_net(
    shape: tuple[int, ...],
    classes: int,
    convs: Sequence[Sequence[int]],
    dense: Sequence[int],
    activation: str = "minmax",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """Convolutions [channels, kernel, stride, padding], then dense layers, then ``classes`` logits.

    Args:
        shape: (C, H, W) of the images.

    Raises:
        UserError: if the data are not images, or too small for the convolutions.

    Source: 4C3F, 6C2F and 8C2F as in Losch 2024, table B.2.
    """
    if len(shape) != 3:
        raise UserError(f"a convolutional model needs images; the data have the shape {shape}; an mlp takes any")
    channels, height, width = shape
    body: list[nn.Module] = []
    for out, kernel, stride, padding in convs:
        body += [nn.Conv2d(channels, out, kernel, stride, padding), ACTIVATIONS[activation]()]
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        channels = out
    if min(height, width) < 1:
        raise UserError(f"images of {shape[1]}x{shape[2]} are too small for the convolutions {list(map(list, convs))}")
    body.append(nn.Flatten())
    size = channels * height * width
    for out in dense:
        body += [nn.Linear(size, out), ACTIVATIONS[activation]()]
        size = out
    return classifier(body, nn.Linear(size, classes), shape[0], mean, std)


def nothing(shape: tuple[int, ...], classes: int) -> nn.Module:
    """No network: for methods that bring their own."""
    return nn.Identity()
