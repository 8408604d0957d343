"""Layers whose Lipschitz constant is known exactly."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MinMax(nn.Module):
    """Sort neighbouring channels: maxima of the pairs (2i, 2i+1), then minima; 1-Lipschitz, preserves gradient norms.

    Shapes: [B, C, ...] to [B, C, ...]; the dtype is kept.

    Raises:
        ValueError: if C is odd.

    Source: Anil 2019, GroupSort with groups of two.
    """

    def forward(self, x: Float[Tensor, "B C *places"]) -> Float[Tensor, "B C *places"]:
        if x.shape[1] % 2:
            raise ValueError(f"MinMax pairs channels and needs an even number of them; got {x.shape[1]}")
        first, second = x.unflatten(1, (-1, 2)).unbind(2)
        # Equals maximum and minimum up to one rounding; their gradients split ties and cost several times as much.
        excess = torch.relu(first - second)
        return torch.cat((second + excess, first - excess), 1)


class Normalize(nn.Module):
    """Standardise channels: ``(x - mean) / std``; its Lipschitz constant is ``1 / min(std)``.

    Args:
        mean, std: one number per channel, in the data's own units.

    Shapes: [B, C, ...] to [B, C, ...].

    Raises:
        ValueError: if mean and std differ in length, or a std is not positive.
    """

    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have one number per channel; got {len(mean)} and {len(std)}")
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be positive; got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Float[Tensor, "B C *places"]) -> Float[Tensor, "B C *places"]:
        channels = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.view(channels)) / self.std.view(channels)


class Residual(nn.Module):
    """Sum of two branches: ``main(x) + x``, or ``main(x) + shortcut(x)``; the branches' Lipschitz constants add.

    Shapes: both branches must give the same shape.
    """

    def __init__(self, main: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        main: Tensor = self.main(x)
        return main + (x if self.shortcut is None else self.shortcut(x))
