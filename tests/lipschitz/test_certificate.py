import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from trust_exp.lipschitz import LipschitzBound, MinMax, certified_radius, tightness_search


def slow_radius(logits: list[float], pairwise: Tensor, allowance: float) -> float:
    top = max(range(len(logits)), key=lambda j: logits[j])  # the first of equal ones, as argmax
    radius = math.inf
    for j in range(len(logits)):
        if j == top:
            continue
        margin = max(logits[top] - logits[j] - allowance, 0)
        constant = pairwise[top, j].item()
        radius = min(radius, margin / constant if constant else (math.inf if margin else 0))
    return radius


def constants(classes: int) -> Tensor:
    weight = torch.randn(classes, 3, dtype=torch.float64)
    weight[0] = weight[1]  # one pair without distance
    return torch.cdist(weight, weight)


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), allowance=st.sampled_from([0.0, 0.3]))
def test_radius_is_that_of_a_loop_over_all_classes(seed, classes, allowance):
    torch.manual_seed(seed)
    logits = torch.randn(7, classes, dtype=torch.float64).round(decimals=1)  # rounding makes ties
    pairwise = constants(classes)
    slow = [slow_radius(row, pairwise, allowance) for row in logits.tolist()]
    radius = certified_radius(logits, pairwise, allowance=allowance)
    torch.testing.assert_close(radius, torch.tensor(slow, dtype=torch.float64))


def test_a_class_behind_the_runner_up_can_be_the_nearest():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    pairwise = torch.tensor([[0.0, 1.0, 8.0], [1.0, 0.0, 1.0], [8.0, 1.0, 0.0]])
    assert certified_radius(logits, pairwise).item() == 2 / 8


def test_ties_have_radius_zero_and_unreachable_classes_none():
    assert certified_radius(torch.tensor([[1.0, 1.0]]), torch.zeros(2, 2)).item() == 0
    assert certified_radius(torch.tensor([[1.0, 0.0]]), torch.zeros(2, 2)).item() == math.inf


def test_radius_keeps_the_dtype_takes_allowances_for_each_row_and_has_finite_gradients():
    logits = torch.tensor([[3.0, 2.0, 2.5], [3.0, 2.0, 2.5]], requires_grad=True)
    radius = certified_radius(
        logits, torch.ones(3, 3).fill_diagonal_(0).double(), allowance=torch.tensor([[0.0], [1.0]])
    )
    assert radius.dtype == torch.float32
    assert radius.tolist() == [0.5, 0.0]
    assert torch.autograd.grad(radius.sum(), logits)[0].isfinite().all()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), MinMax(), nn.Dropout(0.0), nn.Linear(8, 3))


def test_search_reaches_the_constant_of_a_linear_model_and_never_passes_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    certified = LipschitzBound(model, (6,)).certified()
    x1, x2 = torch.rand(2, 40, 6)
    found = tightness_search(model, x1, x2, domain=(0, 1), steps=500, lr=1e-2)
    assert found.shape == (40,)
    assert 0.99 < found.max() / certified.worst <= 1


@pytest.mark.parametrize("pairwise", [False, True])
def test_search_stays_below_the_bound_also_for_inputs_that_almost_meet(pairwise):
    model = net()
    certified = LipschitzBound(model, (4,)).certified()
    x1 = torch.rand(64, 4)
    x2 = x1 + torch.logspace(-8, 0, 64)[:, None] * torch.randn(64, 4)
    table = certified.pairwise.float() if pairwise else None
    found = tightness_search(model, x1, x2, domain=None, steps=50, lr=1e-3, pairwise=table)
    assert found.max() > 0
    assert (found <= (1 if pairwise else certified.worst)).all()


def test_search_improves_on_the_start_and_stays_in_the_domain():
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x.min().item(), x.max().item()))
            return torch.stack((x.square().sum(1), torch.zeros(len(x))), 1)

    x1, x2 = torch.rand(2, 10, 3)
    start = tightness_search(Spy(), x1, x2, domain=(0, 1), steps=0)
    found = tightness_search(Spy(), x1, x2, domain=(0, 1), steps=200, lr=0.05)
    assert (found >= start).all()
    assert found.max() > 1.05 * start.max()
    assert all(low >= 0 and high <= 1 for low, high in seen)


def test_equal_inputs_give_zero():
    x = torch.rand(3, 4)
    assert tightness_search(net(), x, x, domain=None, steps=0).tolist() == [0, 0, 0]


def test_search_works_in_inference_mode_and_leaves_model_and_inputs_alone():
    model = net()
    model[0].requires_grad_(False)
    model[3].weight.grad = torch.ones(3, 8)
    model[2].eval()
    modes = [layer.training for layer in model.modules()]
    steps = []

    def progress(numbers):
        for number in numbers:
            steps.append(number)
            yield number

    with torch.inference_mode():
        x1, x2 = torch.rand(2, 5, 4)
        before = x1.clone()
        found = tightness_search(model, x1, x2, domain=(0, 1), steps=3, pairwise=torch.ones(3, 3), progress=progress)
        assert not found.requires_grad
        assert torch.equal(x1, before)
    assert steps == [0, 1, 2]
    assert [layer.training for layer in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert torch.equal(model[3].weight.grad, torch.ones(3, 8))
    assert model[3].bias.grad is None


@pytest.mark.parametrize("constant", [math.nan, -1.0, -0.0])
def test_a_constant_that_is_none_gives_no_radius(constant):
    pairwise = torch.tensor([[0.0, constant], [constant, 0.0]])
    expected = math.inf if constant == 0 else 0.0
    assert certified_radius(torch.tensor([[1.0, 0.0]]), pairwise).item() == expected


@pytest.mark.parametrize("logits", [[math.nan, math.nan], [math.nan, 0.0], [math.inf, 0.0], [0.0, -math.inf]])
def test_logits_that_are_not_finite_have_no_radius(logits):
    for constant in (0.0, 1.0, math.inf):
        assert certified_radius(torch.tensor([logits]), torch.full((2, 2), constant)).item() == 0


@pytest.mark.parametrize("divided", [False, True])
def test_a_quotient_is_the_largest_change_of_a_margin_over_the_distance(divided):
    model, x1, x2 = net().double(), *torch.rand(2, 30, 4, dtype=torch.float64)
    table = constants(3) if divided else None
    before, after = model(x1).tolist(), model(x2).tolist()
    slow = []
    for p, (one, other) in enumerate(zip(before, after, strict=True)):
        j = max(range(3), key=lambda i: one[i])
        changes = [abs((one[j] - one[i]) - (other[j] - other[i])) for i in range(3)]
        if table is not None:  # where a constant is 0, logits are equal
            changes = [change / table[j, i].item() if table[j, i] else 0.0 for i, change in enumerate(changes)]
        slow.append(max(changes) / (x1[p] - x2[p]).norm().item())
    found = tightness_search(model, x1, x2, domain=None, steps=0, pairwise=table)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=0)


def test_shapes_are_checked_in_tests():
    """What the annotations promise, by jaxtyping and beartype (tests/shapes.py)."""
    with pytest.raises(TypeCheckError, match="pairwise"):
        certified_radius(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(TypeCheckError, match="x2"):
        tightness_search(net(), torch.zeros(2, 4), torch.zeros(3, 4), domain=None)
