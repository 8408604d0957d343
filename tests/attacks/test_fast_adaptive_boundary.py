import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l2, projection_linf
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from trust_exp.attacks import auto_pgd_released
from trust_exp.attacks.auto_pgd_released import apgd_t
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.fast_adaptive_boundary import _random_start, _step, fab, to_hyperplane
from trust_exp.attacks.noise import image_noise


def problem(count: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand(count, size, generator=generator, dtype=dtype)
    point = torch.where(torch.rand(count, size, generator=generator) < 0.2, point.round(), point)
    normal = torch.randn(count, size, generator=generator, dtype=dtype)
    return point, normal, torch.randn(count, generator=generator, dtype=dtype)


def nearest(point: Tensor, normal: Tensor, excess: float, norm: str) -> Tensor | None:
    """The shortest move by a general solver; None: there is none."""
    p, w = point.numpy(), normal.numpy()
    bounds = [(-value, 1 - value) for value in p]
    size = len(p)
    if norm == "L2":
        start = linprog([0] * size, A_eq=[w], b_eq=[-excess], bounds=bounds)
        if not start.success:
            return None
        found = minimize(
            lambda d: d @ d,
            start.x,
            jac=lambda d: 2 * d,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda d: w @ d + excess, "jac": lambda _: w},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return torch.tensor(found.x) if found.success else None
    # the peak t as one more unknown: -t <= d_i <= t
    above = [[*(1.0 if i == j else 0.0 for j in range(size)), -1.0] for i in range(size)]
    below = [[*(-1.0 if i == j else 0.0 for j in range(size)), -1.0] for i in range(size)]
    found = linprog(
        [0.0] * size + [1.0],
        A_ub=above + below,
        b_ub=[0.0] * (2 * size),
        A_eq=[[*w, 0.0]],
        b_eq=[-excess],
        bounds=[*bounds, (0, None)],
    )
    return torch.tensor(found.x[:-1]) if found.success else None


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(["L2", "Linf"]))
@settings(max_examples=60, deadline=None)
def test_the_move_is_the_shortest_one(seed, size, norm):
    point, normal, excess = problem(1, size, seed)
    move = to_hyperplane(point, normal, excess, norm, (0.0, 1.0))[0]
    assert (point[0] + move).min() >= -1e-12
    assert (point[0] + move).max() <= 1 + 1e-12
    expected = nearest(point[0], normal[0], excess.item(), norm)
    if expected is None:  # not within reach: as far as the domain allows
        corner = torch.where(normal[0] * excess > 0, -point[0], 1 - point[0])
        assert torch.allclose(move, corner)
        return
    assert float(normal[0] @ move + excess) == pytest.approx(0, abs=1e-9)
    order = 2 if norm == "L2" else torch.inf
    assert torch.linalg.vector_norm(move, order) <= torch.linalg.vector_norm(expected, order) + 1e-6


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("size", [5, 300])
def test_agrees_with_the_official_projection(norm, size):
    point, normal, excess = problem(200, size, 0, torch.float32)
    official = projection_l2 if norm == "L2" else projection_linf
    expected = official(point, normal, (normal * point).sum(1) - excess)
    torch.testing.assert_close(to_hyperplane(point, normal, excess, norm, (0.0, 1.0)), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_without_a_domain_a_pixel_moves_as_far_as_it_must(norm):
    point, normal, excess = problem(20, 7, 0)
    move = to_hyperplane(point, normal, 100 * excess, norm, None)
    assert torch.allclose((normal * move).sum(1), -100 * excess)
    length = normal.norm(dim=1) if norm == "L2" else normal.abs().sum(1)
    assert torch.allclose(move.norm(dim=1) if norm == "L2" else move.abs().amax(1), 100 * excess.abs() / length)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_no_slope_no_move(norm):
    zero = torch.zeros(3, 4)
    for domain in ((0.0, 1.0), None):
        assert not to_hyperplane(zero, zero, torch.tensor([0.0, 1.0, -1.0]), norm, domain).any()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("targets", [None, 4])
def test_a_linear_classifier_breaks_exactly_beyond_its_margin(norm, targets):
    model = nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
        x = torch.rand(32, 6, generator=torch.Generator().manual_seed(1))
        y = model(x).argmax(1)
        margins = model(x).gather(1, y[:, None]) - model(x)
        normals = model.weight[y][:, None] - model.weight
        lengths = normals.norm(dim=2) if norm == "L2" else normals.abs().sum(2)
        radius = (margins / lengths).scatter(1, y[:, None], torch.inf).amin(1)
    for factor, breaks in ((0.99, False), (1.01, True)):
        x_adv = fab(model, x, y, factor * radius, norm=norm, targets=targets, domain=None, steps=20, restarts=2)
        assert ((model(x_adv).argmax(1) != y) == breaks).all()
        assert torch.equal((x_adv != x).any(1), torch.full((32,), breaks))
        assert not x_adv.requires_grad
        distance = torch.linalg.vector_norm(x_adv - x, 2 if norm == "L2" else torch.inf, dim=1)
        assert (distance <= factor * radius * (1 + 1e-6)).all()


def test_random_starts_belong_to_the_image():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.rand(6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    options = {"norm": "L2", "targets": None, "domain": None, "steps": 5}
    together = fab(model, x, y, 0.5, **options)
    alone = [fab(model, x[i, None], y[i, None], 0.5, index=torch.tensor([i]), **options) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attack", [apgd_t, fab])
def test_targets_that_share_a_batch_find_what_they_find_one_after_the_other(trained, monkeypatch, attack):
    model, x, y = trained("conv", 10)
    right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:24]
    x, y = x[right].double(), y[right]
    model = copy.deepcopy(model).double()
    found = {}
    for few in (0, 24):
        monkeypatch.setattr(auto_pgd_released, "_FEW", few)
        found[few] = attack(model, x, y, 0.4, norm="L2", steps=20)
    torch.testing.assert_close(found[0], found[24], rtol=1e-9, atol=1e-9)
    assert 0 < (model(found[0]).argmax(1) != y).sum() < len(y)


def test_smaller_slopes_than_a_hundred_millionth_move_no_pixel_for_l2():
    normal = torch.tensor([[1.0, 2e-8, -0.5e-8, 0.0]], dtype=torch.float64)
    for domain in (None, (0.0, 1.0)):
        move = to_hyperplane(torch.full((1, 4), 0.5).double(), normal, torch.tensor([0.1]).double(), "L2", domain)
        assert move[0, 0] == pytest.approx(-0.1)
        assert move[0, 1] == pytest.approx(-0.2e-8)
        assert not move[0, 2:].any()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_a_random_start_is_half_way_to_the_surface(norm):
    x, index = torch.full((3, 2, 4), 0.5), torch.tensor([4, 0, 9])
    start = _random_start(Ball.around(x, 0.2, norm=norm), index, 1, 3)
    noise = image_noise(torch.randn if norm == "L2" else torch.rand, (2, 4), index, 1, "fab", 3)
    noise = noise if norm == "L2" else 2 * noise - 1
    lengths = noise.flatten(1).norm(dim=1) if norm == "L2" else noise.flatten(1).abs().amax(1)
    torch.testing.assert_close(start, x + 0.1 * noise / lengths.view(3, 1, 1))
    assert _random_start(Ball.around(x, 5.0, norm=norm), index, 1, 3).max() == 1, "clipped to the domain"


def test_a_step_leans_towards_the_image_by_how_far_it_is_from_the_boundary():
    """In one dimension: boundary at 1, point at 0.95, image at 0; both move 5 % too far."""
    point, center = torch.tensor([[0.95]]).double(), torch.tensor([[0.0]]).double()
    gap, slope = torch.tensor([0.05]).double(), torch.tensor([[-1.0]]).double()
    near, far = 0.05, 1.0
    weight = near / (near + far)
    expected = (1 - weight) * (0.95 + 1.05 * near) + weight * 1.05 * far
    assert _step(point, center, gap, slope, "L2", None).item() == pytest.approx(expected, rel=1e-6)
    far_off = _step(point - 0.9, center, gap + 0.9, slope, "L2", None).item()
    assert far_off == pytest.approx(0.9 * (0.05 + 1.05 * 0.95) + 0.1 * 1.05, rel=1e-6), "a tenth at most"


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_without_a_slope_a_step_goes_nowhere_and_is_a_number(norm):
    point = torch.tensor([[0.25, 0.5]]).double()
    moved = _step(point, point, torch.ones(1).double(), torch.zeros(1, 2).double(), norm, (0.0, 1.0))
    assert torch.equal(moved, point)


def test_five_runs_unless_others_are_asked_for():
    """As AutoAttack's untargeted FAB has them."""
    assert inspect.signature(fab).parameters["restarts"].default == 5
