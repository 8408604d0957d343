"""A network for tests of bounds and of certificates."""

from torch import nn

from trust_exp.lipschitz import MinMax, Normalize, Residual


def image_net() -> nn.Sequential:
    """One of each layer that a bound knows, nested, on inputs [3, 8, 8]."""
    return nn.Sequential(
        Normalize([0.5, 0.4, 0.3], [0.25, 0.2, 0.5]),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), MinMax()),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.LeakyReLU(0.1)), nn.Conv2d(4, 4, 1)),
        Residual(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        nn.MaxPool2d(2),
        nn.Sequential(nn.AvgPool2d(2, 1), nn.ReLU(), nn.Dropout(), nn.Identity()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, 6), MinMax(), nn.Linear(6, 5)),
    )
