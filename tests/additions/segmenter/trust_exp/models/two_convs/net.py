"""A segmentation network of two convolutions."""

from torch import nn


def two_convs(shape: tuple[int, ...], classes: int, width: int) -> nn.Sequential:
    """Images [B, C, H, W] to logits [B, classes, H, W]."""
    return nn.Sequential(nn.Conv2d(shape[0], width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, classes, 1))
