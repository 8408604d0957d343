import importlib.util

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from trust_exp.attacks import square_attack as module
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.square_attack import square
from trust_exp.schema import ROOT

specification = importlib.util.spec_from_file_location("same_noise", ROOT / "benchmarks" / "same_noise.py")
assert specification is not None
assert specification.loader is not None
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("turned", [False, True])
def test_the_pyramids_are_the_official_ones(side, turned, monkeypatch):
    attack = SquareAttack(nn.Identity(), norm="L2", eps=1.0, device="cpu")
    monkeypatch.setattr(torch, "rand", lambda _: torch.tensor([0.9 if turned else 0.1]))
    torch.testing.assert_close(module._pyramids(side, turned), attack.eta(side))


def test_the_windows_shrink_as_the_official_ones():
    attack = SquareAttack(nn.Identity(), norm="Linf", eps=1.0, n_queries=9000, resc_schedule=False)
    sides = list(module._sides(9000, 32 * 32))
    assert sides == pytest.approx([(attack.p_selection(query) * 32 * 32) ** 0.5 for query in range(9000)])


class Margin(nn.Module):
    """Two classes; the second wins where the mean pixel is above a limit. Remembers what it was asked."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.asked = limit, []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        gap = x.flatten(1).mean(1) - self.limit
        return torch.stack((-gap, gap), 1)


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.1), ("L2", 1.0)])
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_points_stay_in_ball_and_domain_and_the_margin_falls(norm, epsilon, domain):
    x = torch.rand(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    model, y = Margin(2.0), torch.zeros(5, dtype=torch.int64)  # beyond reach
    x_adv = square(model, x, y, epsilon, norm=norm, queries=200, domain=domain)
    asked = torch.stack([points for points in model.asked if len(points) == 5])
    order = 2 if norm == "L2" else torch.inf
    assert torch.linalg.vector_norm((asked - x).flatten(2), order, dim=2).max() <= epsilon * (1 + 1e-6)
    assert domain is None or (asked.min() >= 0 and asked.max() <= 1)
    means = x_adv.flatten(1).mean(1)
    assert (means >= asked[0].flatten(1).mean(1)).all()
    best = torch.cat(model.asked).flatten(1).mean(1).max()
    assert means.max() == best
    if norm == "Linf":
        assert (means > x.flatten(1).mean(1) + 0.05).all()  # more than half of what is possible


def test_no_query_repeats_the_image_that_there_is():
    x, y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, dtype=torch.int64)
    model = Margin(2.0)
    x_adv = square(model, x, y, 0.1, queries=3000)
    up = torch.isclose(x_adv, (x + 0.1).clamp(max=1))
    assert up[..., :-1, :-1].all()  # no window reaches the last row and column
    best = model.asked[0]
    for points in model.asked[1:]:
        assert not torch.equal(points, best)
        if points.mean() > best.mean():
            best = points
    assert len(model.asked) < 2000  # windows that are up already are not asked again


def test_broken_images_are_not_asked_again():
    x = torch.full((2, 1, 8, 8), 0.5)
    x[1] = 0.1
    model = Margin(0.55)  # the first image is within reach
    x_adv = square(model, x, torch.zeros(2, dtype=torch.int64), 0.1, queries=500)
    assert model(x_adv).argmax(1).tolist() == [1, 0]
    sizes = [len(points) for points in model.asked]
    assert sizes[-2] == 1
    assert sizes.count(2) < 100


class Waves(nn.Module):
    """Four classes of images of 2 x 17 x 19 pixels, in float64: no two points have the same margin."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(2 * 17 * 19, 4, generator=torch.Generator().manual_seed(0)).double()

    def forward(self, x: Tensor) -> Tensor:
        return (4 * x).sin().flatten(1) @ self.weight


class Best(SquareAttack):
    """Keeps the last point of every image, also where it does not break it."""

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        queries, self.best = super().attack_single_run(x, y)
        return queries, self.best


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.04), ("L2", 0.6)])
def test_the_last_points_are_the_official_ones(norm, epsilon):
    model, x = Waves(), torch.rand(8, 2, 17, 19, generator=torch.Generator().manual_seed(1)).double()
    y = model(x).argmax(1)
    attack = Best(model, norm=norm, eps=epsilon, n_queries=250, n_restarts=1, resc_schedule=False, device="cpu")
    with benchmark.same_noise(x):
        attack.perturb(x, y)
    found = square(model, x, y, epsilon, norm=norm, queries=250)
    broken = model(found).argmax(1) != y
    assert 0 < broken.sum() < 8
    torch.testing.assert_close(found, attack.best, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.3), ("L2", 3.0)])
def test_no_model_is_asked_about_no_image(norm, epsilon):
    x, model = torch.full((2, 1, 8, 8), 0.5), Margin(0.55)
    x_adv = square(model, x, torch.zeros(2, dtype=torch.int64), epsilon, norm=norm, queries=300)
    assert all(len(points) for points in model.asked)
    assert model(x_adv).argmax(1).tolist() == [1, 1]


@pytest.mark.parametrize(("height", "width", "side"), [(5, 7, 1), (17, 19, 3), (10, 23, 2)])
def test_tiles_are_a_fifth_of_the_height_and_centred(height, width, side):
    begin = (height - 5 * side) // 2
    expected = [
        (begin + side * row, begin + side * column) for row in range(height // side) for column in range(width // side)
    ]
    windows = list(module._tiles(height, width))
    assert [(window[2].start, window[3].start) for window in windows] == expected
    assert {window[axis].stop - window[axis].start for window in windows for axis in (2, 3)} == {side}


def test_short_moves_reach_the_surface_too():
    ball = Ball.around(torch.zeros(1, 1, 5, 5, dtype=torch.float64), 0.5, domain=None)
    point = module._at_radius(ball, torch.full((1, 1, 5, 5), 1e-7, dtype=torch.float64))
    assert point.norm().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_points_of_other_shapes_move_number_by_number(shape):
    """Every number is a channel of one pixel, which a window covers."""
    x, model = torch.full((3, *shape), 0.5), Margin(2.0)
    x_adv = square(model, x, torch.zeros(3, dtype=torch.int64), 0.1, queries=400)
    assert x_adv.shape == x.shape
    assert all(points.shape[1:] == shape for points in model.asked)
    side = (x_adv - x).abs()
    torch.testing.assert_close(side, torch.full_like(side, 0.1))
    assert (x_adv > x).float().mean() > 0.7


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.02), ("L2", 0.1)])
def test_of_points_that_break_nothing_the_one_of_the_least_margin_is_kept(norm, epsilon):
    x = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    model = Margin(x.mean().item() + 0.03)  # margins of a few hundredths
    square(model, x, torch.zeros(1, dtype=torch.int64), epsilon, norm=norm, queries=100, domain=None)
    gaps = [(points.flatten(1).mean(1) - model.limit).item() for points in model.asked]
    assert max(gaps) < 0
    x_adv = square(model, x, torch.zeros(1, dtype=torch.int64), epsilon, norm=norm, queries=100, domain=None)
    assert (x_adv.mean() - model.limit).item() == pytest.approx(max(gaps), abs=1e-7)
