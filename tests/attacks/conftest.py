from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from tests.shapes import check_shapes

check_shapes("trust_exp.attacks", beside=("Ball", "Score"))

Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="session")
def digits() -> Data:
    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


def fit(model: nn.Module, x: Tensor, y: Tensor, steps: int = 80) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def build(kind: str, classes: int) -> nn.Module:
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


@pytest.fixture(scope="session")
def trained(digits: Data) -> Callable[[str, int], tuple[nn.Module, Tensor, Tensor]]:
    """(kind, classes) -> network trained on half the digits of these classes, images and labels of the other half."""
    cache = {}

    def get(kind: str, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
        if (kind, classes) not in cache:
            chosen = digits[1] < classes
            x, y = digits[0][chosen], digits[1][chosen]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                cache[kind, classes] = fit(build(kind, classes), x[: len(x) // 2], y[: len(x) // 2]), x, y
        model, x, y = cache[kind, classes]
        return model, x[len(x) // 2 :], y[len(x) // 2 :]

    return get
