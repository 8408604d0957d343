import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from trust_exp.lipschitz import PowerIteration, spectral_norm_bound
from trust_exp.lipschitz.norms import _axes, _dense, _group

GEOMETRIES = [
    (kernel, stride, padding, dilation, groups)
    for kernel, stride, padding, dilation, groups in itertools.product(
        (1, 3, 4, (3, 2)), (1, 2, (2, 1)), (0, 1, 2, "same"), (1, 2), (1, 2)
    )
    if not (padding == "same" and stride != 1)
]
SIZES = [(5, 5), (6, 6), (7, 8), (8, 5)]


def dense(layer: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Matrix of the layer without its bias, one column for each unit input, in float64."""
    size = math.prod(input_shape)
    with torch.no_grad():
        layer = layer.double()
        images = layer(torch.eye(size, dtype=torch.float64).view(size, *input_shape))
        images = images - layer(torch.zeros(1, *input_shape, dtype=torch.float64))
    return images.flatten(1).T


def convolutions():
    for index, (kernel, stride, padding, dilation, groups) in enumerate(GEOMETRIES):
        torch.manual_seed(index)
        for height, width in SIZES:
            conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups)
            pad = 0 if padding == "same" else padding
            extents = [dilation * (k - 1) + 1 for k in conv.kernel_size]
            if padding == "same" or min(height + 2 * pad - extents[0], width + 2 * pad - extents[1]) >= 0:
                yield conv, (2, height, width)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)], ids=["one of eight", "all"])
def test_power_iteration_converges_to_the_dense_norm_in_every_geometry(step):
    for conv, shape in list(convolutions())[::step]:
        truth = torch.linalg.matrix_norm(dense(conv, shape), 2).item()
        (sigma,) = PowerIteration([(conv, shape)]).converged(max_steps=1000)
        # Near-equal singular values may stop it early, but never above the norm.
        assert truth * (1 - 1e-3) <= sigma.item() <= truth * (1 + 1e-12), (conv, shape)


@pytest.fixture
def torus_only(monkeypatch):
    """Bound small convolutions as large ones are, not by their matrix."""
    monkeypatch.setattr("trust_exp.lipschitz.norms.DENSE_SIDE", 0)


def test_bound_is_never_below_the_dense_norm(torus_only):
    for conv, shape in convolutions():
        truth = torch.linalg.matrix_norm(dense(conv, shape), 2).item()
        bound = spectral_norm_bound(conv, shape)
        assert truth <= bound, (conv, shape)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_bound_of_a_small_convolution_is_its_norm():
    for conv, shape in convolutions():
        truth = torch.linalg.matrix_norm(dense(conv, shape), 2).item()
        bound = spectral_norm_bound(conv, shape)
        assert truth <= bound <= truth * (1 + 1e-8), (conv, shape)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 1, 1, 16),
        pytest.param(3, 2, 1, 16, marks=pytest.mark.slow),
        pytest.param(4, 2, 1, 16, marks=pytest.mark.slow),
        (4, 2, 0, 14),
        (1, 1, 0, 9),
    ],
)
def test_torus_bound_is_tight_at_realistic_sizes(torus_only, kernel, stride, padding, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, kernel, stride, padding)
    truth = PowerIteration([(conv, (8, size, size))]).converged()[0].item()
    assert truth <= spectral_norm_bound(conv, (8, size, size)) <= 1.03 * truth


def test_torus_bound_survives_chunks(torus_only, monkeypatch):
    conv = nn.Conv2d(6, 4, 3, 2, 1, groups=2)
    whole = spectral_norm_bound(conv, (6, 9, 8))
    monkeypatch.setattr("trust_exp.lipschitz.norms.CHUNK", 1)
    assert spectral_norm_bound(conv, (6, 9, 8)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (70, 90)])
def test_bound_of_a_linear_layer_is_its_norm(shape):
    layer = nn.Linear(*shape)
    truth = torch.linalg.matrix_norm(layer.weight.double(), 2).item()
    assert truth <= spectral_norm_bound(layer, shape[:1]) <= truth * (1 + 2e-9)


def test_bound_of_weights_that_are_zero_or_not_finite():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    assert spectral_norm_bound(layer, (3,)) == 0
    nn.init.constant_(layer.weight, math.nan)
    assert spectral_norm_bound(layer, (3,)) == math.inf


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_other_padding_is_refused(mode):
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode)
    for call in (spectral_norm_bound, lambda *layer: PowerIteration([layer])):
        with pytest.raises(ValueError, match=f"padded with zeros; got padding_mode='{mode}'"):
            call(conv, (2, 8, 8))


def test_adjoint_identity():
    for conv, shape in convolutions():
        group = _group([(conv, shape)] * 2, [0, 1])
        weight = group.weight(torch.float64)
        x = torch.randn(group.state.shape, dtype=torch.float64)
        image = group.image(weight, x)
        u = torch.randn_like(image)
        torch.testing.assert_close((image * u).sum(1), (x * group.adjoint(weight, u)).sum(1))


def layers_of_all_kinds() -> list[tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(1)
    small = [nn.Linear(i, o) for i, o in itertools.pairwise([2, 10, 20, 40, 40, 20, 10, 2])]
    large = [nn.Linear(80, 70) for _ in range(2)]
    convs = [nn.Conv2d(4, 4, 3, 2, 1, groups=2) for _ in range(3)]
    other = nn.Conv2d(4, 4, 3, 1, 1)
    mixed = [*small, *convs[:2], other, *large, convs[2]]
    return [(m, (m.in_features,) if isinstance(m, nn.Linear) else (4, 7, 8)) for m in mixed]


def test_layers_of_one_shape_and_small_linear_layers_share_one_operation():
    power = PowerIteration(layers_of_all_kinds())
    assert sorted(len(group.layers) for group in power.groups) == [1, 2, 3, 7]


@pytest.mark.parametrize("through_iterations", [False, True])
def test_grouping_changes_neither_norms_nor_gradients(through_iterations):
    layers = layers_of_all_kinds()
    together = PowerIteration(layers, 1, through_iterations)
    alone = [PowerIteration([layer], 1, through_iterations) for layer in layers]
    for group in together.groups:  # a single layer's start vector depends on its place: take it over
        for row, layer in zip(group.state, group.layers, strict=True):
            index = next(i for i, (other, _) in enumerate(layers) if other is layer)
            alone[index].groups[0].state.copy_(row[: alone[index].groups[0].state.shape[1]])
    weights = [layer.weight for layer, _ in layers]
    for _ in range(3):
        grouped, single = together(), [power()[0] for power in alone]
        torch.testing.assert_close(torch.stack(grouped), torch.stack(single))
        gradients = [torch.autograd.grad(sum(s**2 for s in sigmas), weights) for sigmas in (grouped, single)]
        torch.testing.assert_close(*gradients)


def test_state_is_saved_and_a_resumed_run_goes_on_exactly():
    layers = layers_of_all_kinds()
    first, second = PowerIteration(layers, 2), PowerIteration(layers, 2)
    first()
    second.load_state_dict(first.state_dict())
    assert set(first.state_dict()) == {f"groups.{i}.state" for i in range(4)}
    assert torch.equal(torch.stack(first()), torch.stack(second()))


def test_state_starts_the_same_and_does_not_touch_the_global_generator():
    layers = layers_of_all_kinds()
    before = torch.get_rng_state()
    first, second = PowerIteration(layers), PowerIteration(layers)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_eval_mode_leaves_the_state_alone():
    power = PowerIteration(layers_of_all_kinds(), 2)
    power()
    state = {name: value.clone() for name, value in power.state_dict().items()}
    power.eval()
    assert torch.equal(torch.stack(power()), torch.stack(power()))
    power.converged(max_steps=3)
    assert all(torch.equal(value, state[name]) for name, value in power.state_dict().items())


def test_estimates_grow_towards_the_norm():
    layers = layers_of_all_kinds()
    power = PowerIteration(layers, 3)
    last = torch.zeros(len(layers))
    for _ in range(10):
        sigmas = torch.stack(power()).detach()
        assert (sigmas >= last * (1 - 1e-6)).all()
        last = sigmas
    bounds = torch.tensor([spectral_norm_bound(*layer) for layer in layers])
    assert (last <= bounds * (1 + 1e-6)).all()


@pytest.mark.parametrize("through_iterations", [False, True])
def test_converged_gradient_is_that_of_the_dense_svd(through_iterations):
    torch.manual_seed(3)
    conv, shape = nn.Conv2d(2, 3, 3, 2, 1).double(), (2, 5, 6)
    power = PowerIteration([(conv, shape)], 2000, through_iterations)
    power()
    (grad,) = torch.autograd.grad(power()[0], conv.weight)

    def norm(weight: Tensor) -> Tensor:
        basis = torch.eye(60, dtype=torch.float64).view(60, *shape)
        return torch.linalg.matrix_norm(nn.functional.conv2d(basis, weight, None, 2, 1).flatten(1), 2)

    torch.testing.assert_close(grad, torch.func.grad(norm)(conv.weight.detach()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("through_iterations", [False, True])
def test_gradient_is_that_of_finite_differences(through_iterations):
    torch.manual_seed(4)
    layers = [(nn.Linear(3, 4).double(), (3,)), (nn.Conv2d(2, 2, 3, 2).double(), (2, 4, 5))]
    power = PowerIteration(layers, 1, through_iterations).double()
    power.run(1000)
    state = {name: value.clone() for name, value in power.state_dict().items()}

    def total() -> Tensor:
        power.load_state_dict(state)
        return torch.stack(power()).square().sum()

    for layer, _ in layers:
        (grad,) = torch.autograd.grad(total(), layer.weight)
        slow = torch.zeros_like(grad).flatten()
        flat = layer.weight.detach().view(-1)
        for index, value in enumerate(flat.tolist()):
            for sign in (1, -1):
                flat[index] = value + sign * 1e-5
                slow[index] += sign * total().item() / 2e-5
            flat[index] = value
        torch.testing.assert_close(grad.flatten(), slow, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("through_iterations", [False, True])
def test_zero_weights_have_norm_zero_and_recover(through_iterations):
    layers = layers_of_all_kinds()
    for layer, _ in layers:
        nn.init.zeros_(layer.weight)
    power = PowerIteration(layers, 3, through_iterations)
    sigmas = torch.stack(power())
    grads = torch.autograd.grad(sigmas.sum(), [layer.weight for layer, _ in layers])
    assert not sigmas.any()
    assert all(grad.isfinite().all() for grad in grads)
    for layer, _ in layers:
        nn.init.constant_(layer.weight, 0.1)
    assert (torch.stack(power()) > 0).all()


def test_norms_stay_in_float32_under_autocast_and_for_bfloat16_weights():
    layers = [(layer, shape) for layer, shape in layers_of_all_kinds()]
    power = PowerIteration(layers, 5)
    plain = torch.stack(PowerIteration(layers, 5)())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(torch.stack(power()), plain)
    for layer, _ in layers:
        layer.bfloat16()
    assert power()[0].dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1e-9, 1e-6, 1.0, 1e6, 1e15])
def test_norms_of_any_size_converge(scale):
    torch.manual_seed(0)
    layers = [(nn.Linear(12, 9), (12,)), (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 5))]
    for layer, _ in layers:
        layer.weight.data *= scale
    truth = [torch.linalg.matrix_norm(layers[0][0].weight.detach().double(), 2), spectral_norm_bound(*layers[1])]
    power = PowerIteration(layers, iterations=300)
    for found, rel in ((power(), 1e-4), (power.converged(), 1e-7)):
        assert [sigma.item() for sigma in found] == pytest.approx([float(one) for one in truth], rel=rel)
    (gradient,) = torch.autograd.grad(power()[0], layers[0][0].weight)
    u, _, v = torch.linalg.svd(layers[0][0].weight.double() / scale)
    torch.testing.assert_close(gradient.double(), torch.outer(u[:, 0], v[0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "size", "shape"),
    [
        (nn.Conv2d(1, 2, 3, padding=1), 32, (1024, 2048)),  # the smaller side may be 1024
        (nn.Conv2d(1, 2, 1), 33, None),
        (nn.Conv2d(2, 4, 1, stride=2), 33, None),
        (nn.Conv2d(2, 1, 1, stride=2), 33, (2178, 289)),
        (nn.Conv2d(1, 17, 1), 32, None),  # more than 2^24 entries
    ],
)
def test_a_convolution_is_written_out_as_a_matrix_while_that_is_small(layer, size, shape):
    matrix = _dense(layer, layer.weight.detach().double(), (layer.in_channels, size, size))
    assert (None if matrix is None else tuple(matrix.shape)) == shape


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "torus"),
    [(8, 3, 1, 1, 10), (8, 3, 2, 1, 5), (9, 5, 2, 0, 5), (32, 3, 1, 0, 32), (10, 4, 3, 1, 4)],
)
def test_a_torus_is_as_small_as_may_be(size, kernel, stride, padding, torus):
    """As many folded positions as hold an input, or as hold an output, and the folded kernel less one beyond them."""
    conv = nn.Conv2d(1, 1, kernel, stride, padding)
    inputs = len({(place + padding) // stride for place in range(size)})
    outputs = conv(torch.zeros(1, 1, size, size)).shape[2]
    assert {axis.torus for axis in _axes(conv, (1, size, size))} == {torus}
    assert torus == min(inputs, outputs) + math.ceil(kernel / stride) - 1
