"""Certificates hold for the float32 network: searched for breaks, planted ones among them, and against slow sums."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.lipschitz.networks import image_net
from trust_exp.errors import UserError
from trust_exp.lipschitz import (
    ROUNDING,
    RULES,
    Certifier,
    Context,
    LipschitzBound,
    MinMax,
    Normalize,
    Residual,
    certified_radius,
    lipschitz_constant,
    plain_products,
)

U = 2.0**-24


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(offset: float, seed: int, features: int = 784) -> tuple[nn.Sequential, Tensor]:
    """A net of two classes and images. Large sums of both logits cancel, so that the logits are small all the same."""
    torch.manual_seed(seed)
    sign = torch.randn(features).sign()
    model = nn.Sequential(nn.Linear(features, 2))
    weight = without(sign, torch.randn(2, features) / math.sqrt(features))
    images = torch.rand(features) + without(sign, 0.3 * torch.randn(500, features))
    model[0].weight.data = weight + offset * sign
    model[0].bias.data = -(offset * sign.double() @ images[0].double()).float() + 0.1 * torch.randn(2)
    return model, images


def without(direction: Tensor, rows: Tensor) -> Tensor:
    return rows - torch.outer(rows @ direction, direction) / direction.square().sum()


def convolutional(seed: int) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(seed)
    parts = (nn.Conv2d(1, 8, 4, 2, 1), MinMax(), nn.Conv2d(8, 16, 4, 2, 1), MinMax(), nn.Flatten(), nn.Linear(784, 32))
    return nn.Sequential(*parts, MinMax(), nn.Linear(32, 4)), torch.rand(500, 1, 28, 28)


def deep(seed: int) -> tuple[nn.Sequential, Tensor]:
    """One of each layer whose rounding is known."""
    torch.manual_seed(seed)
    model = image_net()
    model[1][1].running_mean.normal_()
    model[1][1].running_var.uniform_(0.2, 2)
    model[1][1].weight.data.normal_()
    return model.eval(), torch.rand(500, 3, 8, 8)


NETS = {
    "no offsets": lambda seed: linear(0.0, seed),
    "offsets that cancel": lambda seed: linear(0.3, seed),
    "large offsets that cancel": lambda seed: linear(3.0, seed),
    "convolutions": convolutional,
    "one of each layer": deep,
}


def towards_the_boundary(certifier: Certifier, x: Tensor, share: float) -> Tensor:
    """Images moved along the margin's gradient by a share of the way to where a linear margin would be zero."""
    images = x.double().requires_grad_()
    first, second = certifier.network(images).topk(2, 1).values.unbind(1)
    (gradient,) = torch.autograd.grad((first - second).sum(), images)
    step = (first - second) / gradient.flatten(1).square().sum(1).clamp_min(1e-30)
    return (images - share * step.view(-1, *[1] * (x.dim() - 1)) * gradient).float().detach()


SHARES = (0, 0.9, 0.99, 0.999)


def breaks(model: nn.Module, certifier: Certifier, x: Tensor, radius: Tensor, seed: int) -> Tensor:
    """Which images some float32 point nearer than their radius turns over; along the worst direction and beside it."""
    images = x.double().requires_grad_()
    logits = certifier.network(images)
    top = logits.argmax(1)
    second = logits.scatter(1, top[:, None], -torch.inf).argmax(1)
    margin = logits.gather(1, top[:, None]) - logits.gather(1, second[:, None])
    (gradient,) = torch.autograd.grad(margin.sum(), images)
    shape = (-1, *[1] * (x.dim() - 1))
    direction = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-300).view(shape)
    broken = model(x).argmax(1) != top
    generator = draw(seed)
    for back in (0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5):
        for _ in range(4):
            # Neighbouring numbers round in other ways: half a unit of noise on each pixel chooses among them.
            noise = (torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5) * x.abs().double() * 2 * U
            point = (x.double() - direction * (radius * (1 - back)).view(shape) + noise).float()
            inside = (point.double() - x.double()).flatten(1).norm(dim=1) < radius
            broken |= inside & (model(point).argmax(1) != top)
    return broken


def radius_of_old(certifier: Certifier, logits: Tensor) -> Tensor:
    """What was certified before: 32 eps of the largest logit were taken for its rounding."""
    allowance = 32 * 2 * U * logits.abs().amax(1, keepdim=True)
    return certified_radius(logits, certifier.bound.pairwise, allowance=allowance)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 6), marks=pytest.mark.slow)], ids=["one", "five"])
def test_no_float32_point_within_a_radius_is_of_another_class(name, seeds):
    certified = 0
    for seed in seeds:
        model, images = NETS[name](seed)
        certifier = Certifier(model, tuple(images.shape[1:]))
        for share in SHARES:
            x = towards_the_boundary(certifier, images, share)
            _, radius = certifier.radius(x)
            certified += int((radius > 0).sum())
            assert not (breaks(model, certifier, x, radius, seed) & (radius > 0)).any()
    assert certified > 500 * len(seeds)


def test_the_search_breaks_what_a_multiple_of_the_logits_allowed():
    model, images = linear(3.0, 0)
    certifier = Certifier(model, (784,))
    x = towards_the_boundary(certifier, images, 0.999)
    radius = radius_of_old(certifier, certifier.logits(x))
    assert int((breaks(model, certifier, x, radius, 0) & (radius > 0)).sum()) > 100


# --- the bound itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_features_stay_within_rounding_and_drift(name, scale):
    for seed in range(3):
        model, x = NETS[name](seed)
        shape = tuple(x.shape[1:])
        certifier, x = Certifier(model, shape), scale * x[:50]
        around = certifier.around(x)
        body = nn.Sequential(*LipschitzBound(model, shape).body)
        for distance in (0.0, 1e-6, 1e-3, 1.0):
            point = (x.double() + scale * distance * torch.randn(x.shape, generator=draw(seed + 1))).float()
            moved = (point.double() - x.double()).flatten(1).norm(dim=1)
            with torch.no_grad():
                error = (body(point).double() - around.exact).flatten(1).norm(dim=1)
            assert (error <= around.rounding + around.drift * moved).all()


def in_a_bad_order(terms: Tensor) -> Tensor:
    """Sums [outputs] of float32 terms [outputs, n], one after the other: all positive ones first, the largest first."""
    terms = terms.sort(dim=1, descending=True).values
    total = terms[:, 0].clone()
    for column in terms.T[1:]:
        total += column
    return total


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_sums_in_any_order_are_within_the_bound(bias, offset):
    closest = 0.0
    for seed, features in itertools.product(range(3), (3, 100, 3000)):
        torch.manual_seed(seed)
        layer = nn.Linear(features, 20, bias)
        layer.weight.data += offset
        x = torch.randn(1, features)
        exact = layer.double()(x.double()).detach()
        steps = ROUNDING[nn.Linear](layer.requires_grad_(False), x.double(), exact, 1.0)
        bound = U / (1 - steps.count * U) * steps.size.item()
        terms = layer.weight.float() * x
        if bias:
            terms = torch.cat((terms, layer.bias.float()[:, None]), 1)
        for order in (in_a_bad_order(terms), in_a_bad_order(-terms).neg(), terms.sum(1), terms.cumsum(1)[:, -1]):
            error = (order.double() - exact[0]).norm().item()
            assert error <= bound
            closest = max(closest, error / bound)
    assert closest > 0.003, "a bound that nothing comes near shows little"


def test_a_bound_on_what_is_added_up_grows_no_faster_than_its_slope():
    torch.manual_seed(0)
    cases = [
        (nn.Linear(30, 7), (30,)),
        (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (4, 7, 6)),
        (nn.Conv2d(2, 3, 2, padding="same", dilation=2), (2, 5, 5)),
        (nn.BatchNorm2d(3), (3, 4, 4)),
        (Normalize([0.1, 0.7], [0.2, 3.0]), (2, 4, 4)),
        (MinMax(), (4, 3, 3)),
        (nn.LeakyReLU(0.3), (9,)),
        (nn.AvgPool2d(3, 2, 1), (2, 7, 7)),
        (nn.AdaptiveAvgPool2d(2), (2, 8, 6)),
    ]
    for layer, shape in cases:
        layer = layer.double().eval()
        constant = float(
            RULES[type(layer)](
                layer.requires_grad_(False), Context(lambda _: 1.0, lambda _, own=shape: own, torch.float64)
            )
        )
        for distance in (1e-6, 1e-2, 1.0, 100.0):
            x = torch.randn(40, *shape, dtype=torch.float64)
            y = x + distance * torch.randn_like(x)
            with torch.no_grad():
                one, other = (ROUNDING[type(layer)](layer, at, layer(at), constant) for at in (x, y))
            length = (x - y).flatten(1).norm(dim=1)
            assert (other.size <= (one.size + one.slope * length) * (1 + 1e-12)).all(), layer


# --- what a careless verifier would certify ------------------------------------------------------------------------


def two_classes(weight: list[list[float]], bias: list[float]) -> nn.Sequential:
    layer = nn.Linear(len(weight[0]), 2)
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return nn.Sequential(layer)


def radius_at(model: nn.Sequential, point: list[float]) -> float:
    return Certifier(model, (len(point),)).radius(torch.tensor([point]))[1].item()


def test_an_offset_that_cancels_is_not_certified():
    # 2^24 + x is 2^24 in float32 for x below 1: both logits are equal, though they differ by x.
    model = two_classes([[1.0], [0.0]], [2.0**24, 2.0**24])
    assert model(torch.tensor([[0.9]])).diff().item() == 0
    assert radius_at(model, [0.9]) == 0


def test_logits_that_overflow_are_not_certified():
    model = two_classes([[3e38, 3e38], [-3e38, 0.0]], [0.0, 0.0])
    assert model(torch.tensor([[1.0, 1.0]])).isinf().any()
    assert radius_at(model, [1.0, 1.0]) == 0
    radius = radius_at(two_classes([[4e37, 0.0], [-4e37, 0.0]], [0.0, 0.0]), [1.0, 0.0])
    assert 0 < radius < 1, "half of what the largest float32 leaves"


def test_products_that_vanish_are_not_certified():
    tiny = 1e-30  # its products with itself are below the smallest float32
    model = two_classes([[tiny, 0.0], [0.0, tiny]], [0.0, 0.0])
    assert not model(torch.tensor([[tiny, tiny / 2]])).any()
    assert radius_at(model, [tiny, tiny / 2]) == 0


def test_denormal_weights_are_not_certified():
    model = two_classes([[1e-40], [-1e-40]], [0.0, 0.0])
    assert radius_at(model, [1.0]) == 0, "hardware may take them for zero"


def test_tiny_norms_are_certified_as_far_as_they_hold():
    for scale in (1e-20, 1e-10, 1.0, 1e10, 1e20):
        model = two_classes([[scale], [-scale]], [0.0, 0.0])
        assert radius_at(model, [1.0]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["weight", "bias"])
def test_weights_that_are_not_finite_are_not_certified(value, place):
    model = nn.Sequential(nn.Linear(2, 2), MinMax(), nn.Linear(2, 2))
    getattr(model[0], place).data[0] = value
    assert not Certifier(model, (2,)).radius(torch.randn(20, 2))[1].any()


def test_images_that_are_not_finite_are_not_certified():
    images = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [1.0, 2.0]])
    radius = Certifier(nn.Sequential(nn.Linear(2, 2)), (2,)).radius(images)[1]
    assert radius[:2].tolist() == [0, 0]
    assert radius[2] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_refused(dtype):
    with pytest.raises(UserError, match=f"certificates need float32 or float64 weights; got {dtype}"):
        Certifier(nn.Sequential(nn.Linear(2, 2)).to(dtype), (2,))


def test_a_layer_whose_rounding_is_unknown_is_refused(monkeypatch):
    monkeypatch.setitem(RULES, nn.Tanh, lambda layer, context: 1.0)
    model = nn.Sequential(nn.Tanh(), nn.Linear(2, 2))
    assert LipschitzBound(model, (2,)).certified().worst > 0
    with pytest.raises(UserError, match="no bound on the rounding is known for the layer Tanh"):
        Certifier(model, (2,)).radius(torch.randn(1, 2))


def test_kernels_that_the_bound_does_not_cover_are_off_meanwhile():
    def flags() -> list[object]:
        backends = torch.backends
        return [backends.cudnn.enabled, torch._C._get_nnpack_enabled(), torch.get_float32_matmul_precision()]

    torch.set_float32_matmul_precision("high")
    try:
        before = flags()
        with plain_products():
            assert flags() == [False, False, "highest"]
        assert flags() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_network_that_stays_in_training_mode_is_refused():
    class Stubborn(nn.Sequential):
        def train(self, mode: bool = True) -> "Stubborn":
            return super().train()

    with pytest.raises(UserError, match="Stubborn cannot be put into eval mode"):
        Certifier(Stubborn(nn.Linear(2, 2)), (2,))


# --- every number of the bound, by the formulas of docs/certificates.md ---------------------------------------------

# (results on the way to an output, sum of their sizes, growth of that sum) of a layer, from x and z = layer(x) of one
# image: what each layer adds up, written out.
EPS = 2.0**-53


def slow_linear(layer: nn.Linear, x: Tensor, z: Tensor) -> tuple[float, float, float]:
    count = layer.in_features
    weight, bias = layer.weight.abs(), 0 if layer.bias is None else layer.bias.abs()
    each = weight @ x.abs() + bias
    growth = math.sqrt(weight.sum(1).max().item() * weight.sum(0).max().item())
    return 2 * count, (each.norm() + count / 2 * (each.norm() + z.norm())).item(), (count + 1) * growth


def slow_convolution(layer: nn.Conv2d, x: Tensor, z: Tensor) -> tuple[float, float, float]:
    """As a linear layer whose rows are the convolution's own products, without the zeros of padding and groups."""
    count = layer.weight[0].numel()
    positive = nn.Conv2d(**{name: getattr(layer, name) for name in layer.__constants__ if name != "output_padding"})
    positive = positive.double().requires_grad_(False)
    positive.weight.copy_(layer.weight.abs())
    positive.bias.copy_(layer.bias.abs())
    each = positive(x.abs()[None])
    rows = max(each_row.sum().item() for each_row in layer.weight.abs())
    of_group = layer.weight.abs().chunk(layer.groups)
    columns = max(part[:, channel].sum().item() for part in of_group for channel in range(part.shape[1]))
    size = each.norm() + count / 2 * (each.norm() + z.norm())
    return 2 * count, size.item(), (count + 1) * math.sqrt(rows * columns)


def slow_batch_norm(layer: nn.BatchNorm2d, x: Tensor, z: Tensor) -> tuple[float, float, float]:
    scale = layer.weight.abs() / (layer.running_var + layer.eps).sqrt()
    channels = zip(scale, x, layer.running_mean.abs(), layer.bias.abs(), strict=True)
    each = torch.stack([s * (plane.abs() + mean) + bias for s, plane, mean, bias in channels])
    return 16, 16 * each.norm().item(), 16 * scale.max().item()


def slow_average(area: int, layer: nn.Module, x: Tensor, constant: float) -> tuple[float, float, float]:
    """A sum of the window, then a division."""
    return area + 1, (area + 1) * layer(x.abs()[None]).norm().item(), (area + 1) * constant


STEPS = {
    "linear": (nn.Linear(5, 3), (5,), slow_linear),
    "linear without an offset": (nn.Linear(7, 2, bias=False), (7,), slow_linear),
    "convolution in groups": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (4, 7, 6), slow_convolution),
    "batch norm": (nn.BatchNorm2d(3), (3, 4, 5), slow_batch_norm),
    # a difference and a quotient, or a reciprocal and a product
    "normalize": (
        Normalize([0.1, 0.7], [0.25, 3.0]),
        (2, 4, 4),
        lambda layer, x, z: (3, 3 * z.norm().item(), 3 / 0.25),
    ),
    # |first - second| <= |first| + |second|, whose norm is at most twice that of the input, and the output
    "MinMax": (MinMax(), (4, 3, 3), lambda _, x, z: (2, 3 * x.norm().item(), 3.0)),
    "leaky ReLU": (nn.LeakyReLU(0.3), (9,), lambda _, x, z: (2, 0.6 * x.norm().item(), 0.6)),
    "average pool": (
        nn.AvgPool2d((2, 3)),
        (2, 4, 6),
        lambda layer, x, z: slow_average(6, layer, x, 1 / math.sqrt(6)),
    ),
    "adaptive average pool": (
        nn.AdaptiveAvgPool2d(2),
        (2, 8, 6),
        lambda layer, x, z: slow_average(12, layer, x, 1 / math.sqrt(12)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_layer_by_their_formulas(name):
    given, shape, slow = STEPS[name]
    layer = copy.deepcopy(given).double().eval().requires_grad_(False)
    for value in (*layer.parameters(), *layer.buffers()):
        if value.is_floating_point() and not isinstance(layer, Normalize):
            value.uniform_(0.1, 2, generator=draw(1)).mul_(1 - 2 * torch.randint(2, value.shape, generator=draw(2)))
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_var.abs_()
    x = torch.randn(3, *shape, generator=draw(3), dtype=torch.float64)
    z = layer(x)
    constant = float(lipschitz_constant(layer, Context(lambda _: 1.0, lambda _: shape, torch.float64)))
    steps = ROUNDING[type(layer)](layer, x, z, constant)
    for image in range(3):
        count, size, slope = slow(layer, x[image], z[image])
        assert steps.count == count
        assert float(steps.slope) == pytest.approx(slope, rel=1e-12)
        assert steps.size[image].item() == pytest.approx(size, rel=1e-5)
        assert steps.size[image] >= size * (1 - 1e-12), "what is added up in float32 is rounded up"


def share_of(count: int) -> float:
    """u / (1 - n u): how much of the size of n results is lost; u is that of float32, and of the float64 copy."""
    unit = U + EPS
    return unit / (1 - count * unit)


def slow_around(layers: nn.Sequential, x: Tensor) -> tuple[Tensor, float, float]:
    """Exact outputs of a body of linear layers, ReLU and MinMax for one image, with rounding and drift."""
    rounding, drift = 0.0, 1.0
    tiny = torch.finfo(torch.float32).tiny
    for layer in layers:
        z = layer(x[None])[0]
        if isinstance(layer, nn.Linear):
            constant = torch.linalg.matrix_norm(layer.weight, 2).item()
            count, size, slope = slow_linear(layer, x, z)
        elif isinstance(layer, MinMax):
            constant, (count, size, slope) = 1.0, (2, 3 * x.norm().item(), 3.0)
        else:
            constant, (count, size, slope) = 1.0, (0, 0.0, 0.0)
        share = share_of(count) if count else 0.0
        flushed = tiny * count * (math.sqrt(z.numel()) + slope * math.sqrt(x.numel()))
        rounding = constant * rounding + share * (size + slope * rounding) + flushed
        drift = constant * drift + share * slope * drift
        x = z
    return x, rounding, drift


def small_net() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), MinMax(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, torch.rand(4, 6, generator=draw(0))


def test_rounding_and_drift_of_a_body_by_their_recursion():
    model, images = small_net()
    around = Certifier(model, (6,)).around(images)
    body = copy.deepcopy(model[:-1]).double().requires_grad_(False)
    for image, x in enumerate(images.double()):
        exact, rounding, drift = slow_around(body, x)
        torch.testing.assert_close(around.exact[image], exact, rtol=1e-12, atol=1e-12)
        assert around.rounding[image].item() == pytest.approx(rounding, rel=1e-5)
        assert drift <= around.drift <= drift * (1 + 1e-8)
        growth = drift - math.prod(torch.linalg.matrix_norm(layer.weight, 2).item() for layer in (body[0], body[2]))
        assert growth > 1e-7 * drift, "what rounding adds to the drift is there to be seen"


def test_a_residual_block_adds_both_branches_and_one_rounding():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(Residual(layer), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.rand(3, 4, generator=draw(0))
    around = Certifier(model, (4,)).around(x)
    for image, point in enumerate(x.double()):
        exact, rounding, drift = slow_around(nn.Sequential(copy.deepcopy(layer).double()), point)
        total = (exact + point).norm().item()
        share, drift = share_of(1), drift + 1
        slope = 1.0  # a sum of two grows as fast as the sum
        expected = rounding + share * (total + slope * rounding) + 2.0**-126 * (2 + slope * 2)
        torch.testing.assert_close(around.exact[image], exact + point, rtol=1e-12, atol=0)
        assert around.rounding[image].item() == pytest.approx(expected, rel=1e-5)
        assert around.drift == pytest.approx(drift * (1 + share * slope), rel=1e-8)


def test_a_radius_by_its_formula():
    """The smallest over the other classes of margin less rounding, over the constant with all that it grows by."""
    model, images = small_net()
    logits, radius = Certifier(model, (6,)).radius(images)
    double = copy.deepcopy(model).double().requires_grad_(False)
    head = double[-1]
    count, weight = head.in_features, head.weight.abs()
    for image, x in enumerate(images.double()):
        features, rounding, drift = slow_around(double[:-1], x)
        z = head(features)
        torch.testing.assert_close(logits[image], z, rtol=1e-12, atol=1e-12)
        each = weight @ features.abs() + head.bias.abs()
        slopes = share_of(2 * count) * (count + 1) * weight.norm(dim=1)
        own = share_of(2 * count) * (each + count / 2 * (each + z.abs()))
        own += 2.0**-126 * 2 * count * (1 + (count + 1) * weight.norm(dim=1) * math.sqrt(5))
        top = int(z.argmax())
        radii = []
        for other in set(range(3)) - {top}:
            constant = (head.weight[top] - head.weight[other]).norm() + slopes[top] + slopes[other]
            margin = z[top] - z[other] - own[top] - own[other] - constant * rounding
            radii.append(float(margin / (constant * drift)))
        assert radius[image].item() == pytest.approx(max(0.0, min(radii)), rel=1e-6)
        assert radius[image] <= min(radii)


def test_what_is_flushed_to_zero_counts_once_for_each_result():
    """At inputs of 0, where nothing else rounds: 2^-126 for each result of each output, and as much as inputs grow."""
    model = nn.Sequential(nn.Linear(4, 9, bias=False), nn.Linear(9, 2)).requires_grad_(False)
    around = Certifier(model, (4,)).around(torch.zeros(1, 4))
    *_, slope = slow_linear(copy.deepcopy(model[0]), torch.zeros(4), torch.zeros(9))
    assert around.rounding.item() == pytest.approx(2.0**-126 * 8 * (3 + slope * 2), rel=1e-6, abs=0)


def test_images_are_certified_as_far_as_nothing_overflows():
    """The results on the way to a logit, |w| |x| twice, stay below half of the largest float32."""
    weight, x, largest = 1e37, 5.0, torch.finfo(torch.float32).max
    model = two_classes([[weight], [-weight]], [0.0, 0.0])
    limit = ((U + EPS) * largest / 2 / share_of(2) - 2 * weight * x) / (2 * weight)
    assert 3 < limit < x
    assert radius_at(model, [x]) == pytest.approx(limit, rel=1e-6)
