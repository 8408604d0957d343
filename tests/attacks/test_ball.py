import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trust_exp.attacks.ball import Ball, check_radius
from trust_exp.errors import UserError

NORMS = ["L2", "Linf"]
radii = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 10.0)), min_size=1, max_size=5)


def exact_norm(delta: Tensor, norm: str) -> Tensor:
    delta = delta.flatten(1).double()
    return delta.abs().amax(1) if norm == "Linf" else delta.square().sum(1).sqrt()


def exact_distance(a: Tensor, b: Tensor, norm: str) -> Tensor:
    return exact_norm(a.double() - b.double(), norm)


@given(
    radii, st.sampled_from(NORMS), st.booleans(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99)
)
@settings(max_examples=200, deadline=None)
def test_projected_points_are_inside_ball_and_domain(epsilon, norm, bounded, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(epsilon), 3, 4, 4, generator=generator, dtype=dtype).mul(1.5).sub(0.25).clamp(0, 1)
    far = x + 10 ** (4 * torch.rand(1, generator=generator) - 2) * torch.randn(
        x.shape, generator=generator, dtype=dtype
    )
    domain = (0.0, 1.0) if bounded else None
    radius = torch.tensor(epsilon, dtype=torch.float64)
    ball = Ball.around(x, radius, norm=norm, domain=domain)
    point = ball.project(far)
    assert ball.contains(point).all()
    assert (exact_distance(point, x, norm) <= radius).all()
    assert not bounded or (point.min() >= 0 and point.max() <= 1)
    assert torch.equal(point[radius == 0], x[radius == 0])


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_inside_points_and_reaches_the_surface(norm):
    x = torch.full((2, 3, 4, 4), 0.5)
    ball = Ball.around(x, 0.1, norm=norm, domain=(0.0, 1.0))
    inside = x + 0.01 * torch.rand_like(x)
    assert torch.equal(ball.project(inside), inside)
    surface = exact_distance(ball.project(x + torch.randn_like(x)), x, norm)
    assert torch.allclose(surface, torch.tensor(0.1, dtype=torch.float64), rtol=2e-6)


def test_large_images_stay_inside_too():
    x = torch.rand(2, 3, 224, 224)
    point = Ball.around(x, 0.003, norm="L2", domain=None).project(x + torch.randn_like(x))
    assert (exact_distance(point, x, "L2") <= 0.003).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_has_unit_norm_however_small_or_large_the_gradient(norm):
    gradient = torch.randn(4, 7) * torch.tensor([1e-30, 1.0, 1e30, 0.0])[:, None]
    length = exact_norm(Ball.around(torch.zeros(4, 7), 1.0, norm=norm, domain=None).steepest(gradient), norm)
    assert torch.allclose(length, torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_lie_on_the_surface_and_agree_across_dtypes(norm):
    x, epsilon = torch.full((5, 6), 0.5), torch.linspace(0, 0.4, 5)
    points = [
        Ball.around(x.to(dtype), epsilon, norm=norm, domain=None).sample(torch.Generator().manual_seed(3))
        for dtype in (torch.float32, torch.float64)
    ]
    assert torch.allclose(points[0].double(), points[1], atol=1e-6)
    assert torch.allclose(exact_distance(points[0], x, norm), epsilon.double(), rtol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_allows_rounding_and_nothing_else(norm):
    x = torch.zeros(5, 2, dtype=torch.float64)
    along = torch.tensor([1 + 9e-7, 1 + 2e-6, torch.nan, 0.5, -0.5], dtype=torch.float64)
    point = x + torch.stack([along, torch.zeros_like(along)], 1)
    assert Ball.around(x, 1.0, norm=norm, domain=None).contains(point).tolist() == [True, False, False, True, True]
    assert Ball.around(x, 1.0, norm=norm, domain=(0.0, 2.0)).contains(point).tolist() == [
        True,
        *[False] * 2,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": math.inf}, "epsilon must be finite and at least 0; got inf"),
        ({"epsilon": -1.0}, "got -1"),
        ({"epsilon": torch.tensor([0.1, math.nan])}, "got nan"),
        ({"epsilon": torch.ones(3)}, r"of shape \[2\]; got shape \[3\]"),
        ({"norm": "L1"}, "norm must be one of L2, Linf; got 'L1'"),
        ({"domain": (1.0, 0.0)}, "low < high"),
        ({"domain": (0.0, 0.0)}, "low < high"),
        ({"domain": (0.0, math.inf)}, "two finite numbers"),
        ({"domain": (-math.inf, 1.0)}, "two finite numbers"),
        ({"x": torch.full((2, 3), 1.1)}, r"values in \[1.1, 1.1\], outside domain"),
        ({"x": torch.full((2, 3), -2.1)}, r"values in \[-2.1, -2.1\], outside domain"),
        ({"x": torch.full((2, 3), math.nan)}, "x must be finite"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "float32 or float64"),
    ],
)
def test_refusals(change, message):
    arguments = {"x": torch.zeros(2, 3), "epsilon": 0.1, "norm": "L2", "domain": (0.0, 1.0)} | change
    with pytest.raises(ValueError, match=message):
        Ball.around(arguments.pop("x"), **arguments)


@pytest.mark.parametrize(
    ("epsilon", "norm", "domain", "refused"),
    [
        (8, "Linf", (0.0, 1.0), True),
        (1, "Linf", (0.0, 1.0), False),  # an attack without a bound is a check of gradients
        (8, "Linf", (0.0, 255.0), False),
        (8, "Linf", None, False),
        (36, "L2", (0.0, 1.0), True),
        (8, "L2", (0.0, 1.0), False),  # the diagonal of 64 pixels
        (17, "L2", (-1.0, 1.0), True),
    ],
)
def test_a_radius_that_covers_all_images_is_of_other_units(epsilon, norm, domain, refused):
    if refused:
        with pytest.raises(UserError, match=f"key={epsilon}/255"):
            check_radius("key", epsilon, norm, domain, (1, 8, 8))
    else:
        check_radius("key", epsilon, norm, domain, (1, 8, 8))


def test_pixels_at_both_ends_of_the_domain_are_inside():
    x = torch.tensor([[0.0, 1.0, 0.5]])
    ball = Ball.around(x, 0.1)
    assert torch.equal(ball.center, x)
    assert ball.contains(x).tolist() == [True]
