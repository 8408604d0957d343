import pytest
import torch
from torch import nn

from trust_exp.lipschitz import MinMax, Normalize, Residual


@pytest.mark.parametrize("shape", [(3, 4), (3, 6, 5, 2)])
def test_minmax_sorts_neighbours(shape):
    x = torch.randn(shape, dtype=torch.float64)
    pairs = [x[:, i : i + 2] for i in range(0, shape[1], 2)]
    slow = torch.stack([p.amax(1) for p in pairs] + [p.amin(1) for p in pairs], 1)
    torch.testing.assert_close(MinMax()(x), slow)


def test_minmax_keeps_the_norm_of_every_gradient_also_at_ties():
    x = torch.randn(5, 8).index_fill(1, torch.tensor([2, 3]), 0.5).requires_grad_()
    upstream = torch.randn(5, 8)
    (grad,) = torch.autograd.grad(MinMax()(x), x, upstream)
    torch.testing.assert_close(grad.norm(dim=1), upstream.norm(dim=1))


def test_minmax_refuses_an_odd_number_of_channels():
    with pytest.raises(ValueError, match="even number of them; got 3"):
        MinMax()(torch.zeros(1, 3))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)])
def test_normalize_standardises_channels(shape):
    x = torch.rand(shape)
    y = Normalize([0.1, 0.2, 0.3], [0.5, 1.0, 2.0])(x)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(y[:, channel], (x[:, channel] - mean) / std)


@pytest.mark.parametrize(("mean", "std"), [([0.0], [1.0, 1.0]), ([0.0], [0.0])])
def test_normalize_refuses_bad_statistics(mean, std):
    with pytest.raises(ValueError, match="std must"):
        Normalize(mean, std)


def test_residual_adds_its_branches():
    x, main, shortcut = torch.randn(2, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    torch.testing.assert_close(Residual(main)(x), main(x) + x)
    torch.testing.assert_close(Residual(main, shortcut)(x), main(x) + shortcut(x))
