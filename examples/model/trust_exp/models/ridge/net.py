"""A network of one convolution."""

from torch import nn


def ridge(shape: tuple[int, ...], classes: int, width: int) -> nn.Sequential:
    """Images [B, C, H, W] to logits [B, classes]."""
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(shape[1:]),
        nn.Flatten(),
        nn.Linear(width, classes),
    )
