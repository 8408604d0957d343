import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.lipschitz.networks import image_net
from trust_exp import choices
from trust_exp.build import build
from trust_exp.errors import UserError
from trust_exp.lipschitz import RULES, Context, LipschitzBound, MinMax, Normalize, Residual, lipschitz_constant
from trust_exp.lipschitz.bound import GAP_STEPS
from trust_exp.schema import find_schema


def norm(weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(weight.double(), 2)


def two_moons_mlp() -> nn.Sequential:
    widths = [2, 10, 20, 40, 40, 20, 10, 2]
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), MinMax())]
    return nn.Sequential(*layers[:-1])


def test_mlp_is_the_product_of_its_norms_and_one_stack():
    model = two_moons_mlp()
    bound = LipschitzBound(model, (2,), iterations=500)
    *hidden, last = (layer.weight for layer in model if isinstance(layer, nn.Linear))
    features = math.prod(norm(weight).item() for weight in hidden)
    distance = (last[0] - last[1]).double().norm().item()
    found = bound()
    assert len(bound.power.groups) == 1
    assert found.features.item() == pytest.approx(features, rel=1e-5)
    assert found.worst.item() == pytest.approx(features * distance, rel=1e-5)
    assert found.total.item() == pytest.approx(features * norm(last).item(), rel=1e-5)
    assert bound.certified().features.item() == pytest.approx(features, rel=1e-7)


def test_nested_residual_net_by_hand():
    torch.manual_seed(0)
    model = image_net()
    model[1][1].running_var.uniform_(0.5, 2)
    bound = LipschitzBound(model, (3, 8, 8))
    stem, main, shortcut, residual, hidden = (sigma.item() for sigma in bound.power.converged(max_steps=GAP_STEPS))
    batch_norm = 1 / math.sqrt(model[1][1].running_var.min().item() + model[1][1].eps)
    average = math.sqrt(4 * 4) / 4  # 2 x 2 windows, 4 of which share an input
    by_hand = (
        1
        / model[0].std.min().item()
        * stem
        * batch_norm
        * (main + shortcut)
        * (residual + 1)
        * average
        * (1 / 3)
        * hidden
    )
    gap = bound.gap()
    assert 0 <= gap < 0.3
    assert bound.certified().features.item() == pytest.approx(by_hand * (1 + gap), rel=1e-9)


def test_pairs_against_a_loop_and_gradient_through_the_worst_pair_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5))
    found = LipschitzBound(model, (4,), iterations=300)()
    weight = model[1].weight
    for i in range(5):
        for j in range(5):
            expected = found.features * (weight[i] - weight[j]).norm() if i != j else torch.zeros(())
            torch.testing.assert_close(found.pairwise[i, j], expected)
    torch.testing.assert_close(found.per_logit, torch.stack([found.features * row.norm() for row in weight]))
    assert found.worst == found.pairwise.max()
    (grad,) = torch.autograd.grad(found.worst, weight, retain_graph=True)
    assert set(grad.norm(dim=1).nonzero().flatten().tolist()) == set(divmod(found.pairwise.argmax().item(), 5))
    (grad,) = torch.autograd.grad(found.pairwise.sum(), weight)
    assert grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 40])  # cdist changes its method at 25 rows unless told not to
def test_equal_rows_of_the_last_layer_have_distance_zero_and_finite_gradients(classes):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, classes))
    nn.init.constant_(model[1].weight, 0.7)
    found = LipschitzBound(model, (3,))()
    assert not found.pairwise.any()
    assert torch.autograd.grad(found.pairwise.sum(), model[1].weight)[0].isfinite().all()


@pytest.mark.parametrize("through_iterations", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradient_of_worst_is_that_of_finite_differences(through_iterations):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), Residual(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    bound = LipschitzBound(model, (1, 4, 4), 1000, through_iterations)
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if "bias" not in n), strict=True)
    grads = torch.autograd.grad(bound().worst, weights)
    for name, weight, grad in zip(names, weights, grads, strict=True):
        direction = torch.randn_like(weight)
        values = []
        for step in (1e-5, -1e-5):
            weight.data.add_(direction, alpha=step)
            values.append(bound().worst.item())
            weight.data.sub_(direction, alpha=step)
        slow = (values[0] - values[1]) / 2e-5
        assert (grad * direction).sum().item() == pytest.approx(slow, rel=1e-5, abs=1e-8), name


def test_certified_is_never_below_converged_power_iteration():
    for seed in range(2):
        torch.manual_seed(seed)
        bound = LipschitzBound(image_net(), (3, 8, 8), iterations=200)
        certified = bound.certified()
        assert certified.features.dtype == torch.float64
        assert not certified.pairwise.requires_grad
        assert certified.worst >= bound().worst.double() * (1 - 1e-6)
        assert bound.gap(certified) >= 0
        assert bound.gap(certified, steps=1) > bound.gap(certified, steps=50), "the estimate rises, the bound stays"


def test_normalisation_scales_the_bound():
    plain = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    scaled = nn.Sequential(Normalize([0.0, 0.0], [0.5, 0.2]), plain)
    ratio = LipschitzBound(scaled, (2, 5, 5)).certified().worst / LipschitzBound(plain, (2, 5, 5)).certified().worst
    assert ratio.item() == pytest.approx(5, rel=1e-6)


def test_linear_model_has_only_its_head():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    found = LipschitzBound(model, (1, 2, 2))()
    assert found.features == 1
    torch.testing.assert_close(found.worst, (model[1].weight[0] - model[1].weight[1]).norm())


def test_model_is_left_as_it_was_and_is_not_registered():
    model = image_net()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [layer.training for layer in model.modules()]
    bound = LipschitzBound(model, (3, 8, 8))
    assert [layer.training for layer in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert not list(bound.parameters())
    assert all(name.endswith("state") for name in bound.state_dict())


def test_eval_mode_leaves_the_state_alone_and_training_mode_moves_it():
    bound = LipschitzBound(two_moons_mlp(), (2,))
    state = bound.power.groups[0].state.clone()
    bound.eval()()
    assert torch.equal(bound.power.groups[0].state, state)
    bound.train()()
    assert not torch.equal(bound.power.groups[0].state, state)


def test_an_earlier_bound_can_still_be_differentiated_after_a_later_call():
    for through_iterations in (False, True):
        model = two_moons_mlp()
        bound = LipschitzBound(model, (2,), through_iterations=through_iterations)
        first = [bound.eval()(), bound.train()()]
        bound()
        for found in first:
            torch.autograd.grad(found.worst, model[0].weight)


def test_follows_weights_that_a_parametrization_makes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.utils.parametrizations.orthogonal(model[0])
    assert LipschitzBound(model, (3,), iterations=100)().features.item() == pytest.approx(1, rel=1e-5)


def test_unknown_layers_are_named():
    with pytest.raises(
        UserError, match=r"no Lipschitz constant is known for the layer Softplus; known layers: Adaptive"
    ):
        LipschitzBound(nn.Sequential(nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 2)), (2,))


def test_a_subclass_that_computes_something_else_is_unknown():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(UserError, match="layer Doubled"):
        LipschitzBound(nn.Sequential(Doubled(2, 2), nn.Linear(2, 2)), (2,))
    with pytest.raises(ValueError, match=r"must be nn\.Linear; got Doubled"):
        LipschitzBound(nn.Sequential(Doubled(2, 2)), (2,))


class Named(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def extra_repr(self) -> str:
        return "named"


class Called(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return 3 * super().__call__(x)


class Convolved(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 5 * super()._conv_forward(x, weight, bias)


class Chained(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replaced() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: 4 * x
    return layer


def hooked(register: str) -> nn.Module:
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    getattr(layer if register.startswith("whole ") else layer[0], register.split()[-1])(lambda *_: None)
    return layer


CHANGED = {
    "it has another __call__": lambda: Called(3, 3),
    "it has another _conv_forward": lambda: nn.Sequential(nn.Unflatten(1, (3, 1, 1)), Convolved(3, 3, 1), nn.Flatten()),
    "Chained: it has another forward": lambda: Chained(nn.Linear(3, 3)),
    "its forward was replaced": replaced,
    "Linear: it has a forward hook": lambda: hooked("register_forward_hook"),
    "r: it has a forward hook": lambda: hooked("register_forward_pre_hook"),
    "Sequential: it has a forward hook": lambda: hooked("whole register_forward_hook"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_layer_that_was_changed_is_refused(change, monkeypatch):
    monkeypatch.setitem(RULES, nn.Unflatten, lambda *_: 1.0)
    with pytest.raises(UserError, match=rf"no Lipschitz constant is known for the layer [\w: ]*{change}"):
        LipschitzBound(nn.Sequential(CHANGED[change](), nn.Linear(3, 2)), (3,)).certified()


def test_a_hook_on_the_whole_network_or_added_later_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    bound = LipschitzBound(model, (3,))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="it has a forward hook"):
        bound.certified()
    with pytest.raises(UserError, match="it has a forward hook"):
        LipschitzBound(nn.Sequential(hooked("whole register_forward_pre_hook"), nn.Linear(3, 2)), (3,))


def test_a_hook_on_all_modules_is_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(UserError, match="it has a forward hook"):
            LipschitzBound(nn.Sequential(nn.Linear(3, 2)), (3,))
    finally:
        handle.remove()


def test_a_subclass_that_computes_the_same_is_known():
    layer = Named(3)
    found = LipschitzBound(nn.Sequential(layer, nn.Linear(3, 2)), (3,)).certified()
    assert found.features.item() == pytest.approx(norm(layer.weight).item(), rel=1e-7)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("make", [nn.utils.weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)])
def test_weights_that_a_hook_makes_are_those_of_the_next_call(make):
    model = nn.Sequential(make(nn.Linear(3, 3)), nn.Linear(3, 2))
    bound = LipschitzBound(model, (3,), iterations=300)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(5)
    found = bound.certified().features.item(), bound().features.item()
    model(torch.zeros(1, 3))
    assert found == pytest.approx([norm(model[0].weight).item()] * 2, rel=1e-5)


def test_a_deviation_that_became_negative_has_the_constant_of_its_magnitude():
    model = nn.Sequential(Normalize([0.0, 0.0], [0.5, 0.25]), nn.Linear(2, 2))
    model[0].std.copy_(torch.tensor([0.5, -0.1]))
    assert LipschitzBound(model, (2,)).certified().features.item() == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential()])
def test_last_layer_must_be_linear(model):
    with pytest.raises(ValueError, match="the last layer must be"):
        LipschitzBound(model, (2,))


def test_a_layer_may_be_used_twice_unless_its_constant_depends_on_the_size():
    activation, conv = MinMax(), nn.Conv2d(2, 2, 3, 2, 1)
    twice = nn.Sequential(
        nn.Conv2d(2, 2, 3), activation, nn.Conv2d(2, 2, 3), activation, nn.Flatten(), nn.Linear(32, 2)
    )
    LipschitzBound(twice, (2, 8, 8))
    shared = nn.Linear(3, 3)
    found = LipschitzBound(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2)), (3,)).certified()
    assert found.features.item() == pytest.approx(norm(shared.weight).item() ** 2, rel=1e-7)
    with pytest.raises(UserError, match="Conv2d is used with several input shapes"):
        LipschitzBound(nn.Sequential(conv, conv, nn.Flatten(), nn.Linear(8, 2)), (2, 8, 8))


def test_a_family_registers_its_layer_in_one_line(monkeypatch):
    monkeypatch.setitem(RULES, nn.Tanh, lambda layer, context: 0.5)
    bound = LipschitzBound(nn.Sequential(nn.Tanh(), nn.Linear(2, 2)), (2,))
    assert bound().features == 0.5


POOLS = [
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 1, 1),
    nn.AvgPool2d((2, 3), (1, 2)),
    nn.AvgPool2d(2, divisor_override=1),
    nn.AvgPool2d(2, 3),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((3, None)),
]


@pytest.mark.parametrize("pool", POOLS)
def test_average_pools_against_their_dense_matrix(pool):
    images = pool(torch.eye(36, dtype=torch.float64).view(36, 1, 6, 6)).flatten(1)
    truth = norm(images.T).item()
    constant = lipschitz_constant(pool, Context(lambda _: 1.0, lambda _: (1, 6, 6), torch.float64))
    assert truth <= constant * (1 + 1e-12)
    if isinstance(pool, nn.AdaptiveAvgPool2d) or pool.kernel_size == pool.stride:
        assert constant == pytest.approx(truth)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d((2, 3), (2, 1), (1, 0))])
def test_max_pools_stay_within_their_constant(pool):
    torch.manual_seed(0)
    constant = lipschitz_constant(pool, Context(lambda _: 1.0, lambda _: (1, 6, 6), torch.float64))
    for scale in (1e-3, 1.0):
        x = torch.randn(500, 1, 6, 6)
        y = x + scale * torch.randn(500, 1, 6, 6).abs() * (torch.rand(500, 1, 6, 6) < 0.2)
        ratio = (pool(x) - pool(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1).clamp_min(1e-9)
        assert ratio.max() <= constant * (1 + 1e-4)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (nn.AvgPool2d(2, ceil_mode=True), "divide by the same number"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "divide by the same number"),
        (nn.AdaptiveAvgPool2d(4), "must divide its input's size"),
        (nn.MaxPool2d(2, dilation=2), "only without dilation"),
        (nn.BatchNorm2d(1, track_running_stats=False), "without running statistics"),
    ],
)
def test_layers_without_a_constant_are_refused(pool, message):
    with pytest.raises(UserError, match=message):
        lipschitz_constant(pool, Context(lambda _: 1.0, lambda _: (1, 6, 6), torch.float64))


SMALL = {"preact_resnet18": ["model.widths=[4,4,4,4]"], "wide_resnet": ["model.depth=10", "model.width=1"]}


MODELS = [  # without those whose source says it
    name
    for name in choices.names("model")
    if "logits" in getattr(choices.read_choice("model", name).schema, "gives", ()) and name not in ("frozen", "trained")
]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_whether_its_layers_are_known(composed, name):
    dataset, shape = ("two_moons", (2,)) if name == "mlp_two_moons" else ("tiny_imagenet", (3, 64, 64))
    node = composed("method=standard", f"model={name}", f"dataset={dataset}", *SMALL.get(name, []))["model"]
    model = build(node, shape=shape, classes=3)
    if "lipschitz" not in find_schema(node["_schema_"]).gives:
        with pytest.raises(UserError, match="no Lipschitz constant is known for the layer"):
            LipschitzBound(model, shape)
    else:
        assert LipschitzBound(model, shape)().worst > 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.sampled_from([1e-2, 1.0, 10.0]), image=st.booleans())
def test_no_pair_of_inputs_changes_a_margin_by_more_than_the_bound(seed, distance, image):
    torch.manual_seed(seed)
    model, shape = (image_net(), (3, 8, 8)) if image else (two_moons_mlp(), (2,))
    model.double().eval()
    certified = LipschitzBound(model, shape).certified()
    x = torch.randn(8, *shape, dtype=torch.float64)
    y = x + distance * torch.randn_like(x)
    change = (model(x) - model(y)).detach()
    margins = (change[:, :, None] - change[:, None, :]).abs()
    lengths = (x - y).flatten(1).norm(dim=1)
    assert (margins <= certified.pairwise * lengths[:, None, None]).all()
    assert (change.norm(dim=1) <= certified.total * lengths).all()


def test_one_step_a_call_unless_more_are_asked_for():
    model = two_moons_mlp()
    for options, taken in (({}, 1), ({"iterations": 3}, 3)):
        bound = LipschitzBound(model, (2,), **options)
        (group,) = bound.power.groups
        vector, weight = group.state.clone(), group.weight(torch.float32)
        for _ in range(taken):
            vector = group.step(weight, vector)
        bound()
        torch.testing.assert_close(group.state, vector)
