"""CLL, GloRo and LMT against the papers' formulas, in float64 and written out slowly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trust_exp.build import build
from trust_exp.data.digits import Digits
from trust_exp.methods.lipschitz_margin.core import (
    calibrated_scale,
    cll_binary_loss,
    cll_loss,
    cll_loss_per_logit,
    gloro_loss,
    lmt_loss,
)
from trust_exp.methods.schedules import polynomial


def example(classes: int = 5, batch: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (batch,), generator=generator)
    rows = torch.randn(classes, 3, generator=generator, dtype=torch.float64)
    return logits, label, torch.cdist(rows, rows)


# The K^(h o f) column of tables 4.1 to 4.3: (epsilon, err_quantile, printed constant)
PRINTED = {
    "4C3F and 6C2F, CIFAR-10": (0.15, 0.3, 11.6),
    "8C2F, Tiny-ImageNet, large p": (0.5, 0.01, 10.6),
    "8C2F, Tiny-ImageNet, large epsilon": (1.0, 0.025, 4.4),
    "LipConv-20, CIFAR-10": (0.25, 0.05, 14.7),
    "CPL-XL, CIFAR-10": (0.25, 0.1, 11.8),
    "CPL-XL, CIFAR-100": (1.0, 1e-3, 7.6),
    "SLL-XL, CIFAR-10": (1.0, 5e-5, 10.6),
    "SLL-XL, CIFAR-100": (1.0, 3e-3, 6.5),
    "LipConv-20, Tiny-ImageNet": (0.15, 0.3, 11.6),
    "table 4.3, first cell": (0.15, 0.1, 19.6),
}


@pytest.mark.parametrize("row", PRINTED)
def test_scale_gives_the_ten_constants_that_the_thesis_prints(row):
    epsilon, err_quantile, printed = PRINTED[row]
    assert round(1 / calibrated_scale(epsilon, err_quantile / 2), 1) == printed


@given(epsilon=st.floats(0.01, 2), p=st.floats(1e-14, 0.499))
def test_scale_puts_p_at_minus_epsilon(epsilon, p):
    assert 1 / (1 + math.exp(epsilon / calibrated_scale(epsilon, p))) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(("epsilon", "p"), [(0, 0.1), (-1, 0.1), (1, 0), (1, 0.5), (1, 2), (float("nan"), 0.1)])
def test_scale_refuses_what_has_no_meaning(epsilon, p):
    with pytest.raises(ValueError, match="must be"):
        calibrated_scale(epsilon, p)


def slow_cll(logits: Tensor, label: Tensor, pairwise: Tensor, scale: float, offset: float, one_sided: bool) -> float:
    """Eq. 4.7, logit by logit."""
    total = 0.0
    for f, y in zip(logits.tolist(), label.tolist(), strict=True):
        g = []
        for i in range(len(f)):
            if i == y:
                g.append(0.0 if one_sided else -offset / scale)
            else:
                g.append(offset / scale + (f[i] - f[y]) / (scale * pairwise[i, y].item()))
        total += math.log(sum(math.exp(value - max(g)) for value in g)) + max(g) - g[y]
    return total / len(label)


@given(seed=st.integers(0, 1000), offset=st.floats(0, 1), one_sided=st.booleans())
@settings(max_examples=40)
def test_multiclass_loss_is_equation_4_7(seed, offset, one_sided):
    logits, label, pairwise = example(seed=seed)
    loss = cll_loss(logits, label, pairwise, 0.07, offset, one_sided=one_sided)
    assert loss.item() == pytest.approx(slow_cll(logits, label, pairwise, 0.07, offset, one_sided), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 1000), epsilon=st.floats(0.01, 2), p=st.floats(1e-12, 0.4))
@settings(max_examples=60)
def test_two_class_one_sided_loss_is_the_binary_loss(seed, epsilon, p):
    logits, label, _ = example(classes=2, seed=seed)
    lipschitz = torch.tensor(1.7, dtype=torch.float64)
    pairwise = lipschitz * (1 - torch.eye(2, dtype=torch.float64))
    scale = calibrated_scale(epsilon, p)
    binary = cll_binary_loss(logits[:, 1] - logits[:, 0], 2.0 * label - 1, lipschitz, scale, epsilon)
    multiclass = cll_loss(logits, label, pairwise, scale, epsilon, one_sided=True)
    assert multiclass.item() == pytest.approx(binary.item(), rel=1e-9, abs=1e-12)


def test_binary_loss_is_log_2_on_the_margin_and_two_sided_multiclass_at_twice_the_offset():
    lipschitz, epsilon = torch.tensor(3.0, dtype=torch.float64), 0.2
    scale = calibrated_scale(epsilon, 0.01)
    sign = torch.ones(1, dtype=torch.float64)
    on_margin = cll_binary_loss(lipschitz * epsilon * sign, sign, lipschitz, scale, epsilon)
    assert on_margin.item() == pytest.approx(math.log(2))
    pairwise = lipschitz * (1 - torch.eye(2, dtype=torch.float64))
    logits = torch.tensor([[0.0, 2 * epsilon * 3.0]], dtype=torch.float64)
    assert cll_loss(logits, torch.tensor([1]), pairwise, scale, epsilon).item() == pytest.approx(math.log(2))


def test_loss_does_not_depend_on_the_scale_of_the_network():
    logits, label, pairwise = example()
    assert cll_loss(1000 * logits, label, 1000 * pairwise, 0.1, 0.2).item() == pytest.approx(
        cll_loss(logits, label, pairwise, 0.1, 0.2).item()
    )


def test_equal_rows_of_the_last_layer_give_a_finite_loss_and_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = cll_loss(logits, torch.tensor([0, 1]), torch.zeros(3, 3), 0.1, 0.2)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_per_logit_loss_by_hand():
    logits, label, _ = example(classes=3)
    constants = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    z = logits / constants / 0.3 + 0.2 / 0.3
    z[torch.arange(len(label)), label] -= 2 * 0.2 / 0.3
    expected = -z.log_softmax(1).gather(1, label[:, None]).mean()
    assert cll_loss_per_logit(logits, label, constants, 0.3, 0.2).item() == pytest.approx(expected.item())


@given(seed=st.integers(0, 1000), epsilon=st.floats(0, 1))
@settings(max_examples=40)
def test_gloro_loss_by_hand(seed, epsilon):
    logits, label, pairwise = example(seed=seed)
    total = 0.0
    for f, y in zip(logits, label, strict=True):
        i = int(f.argmax())
        bottom = max(f[j] + epsilon * pairwise[i, j] for j in range(len(f)) if j != i)
        total -= torch.log_softmax(torch.cat([f, bottom[None]]), 0)[y].item()
    assert gloro_loss(logits, label, pairwise, epsilon).item() == pytest.approx(total / len(label))


def test_lmt_loss_by_hand():
    logits, label, _ = example(classes=3)
    lipschitz = torch.tensor(1.3, dtype=torch.float64)
    shifted = logits + math.sqrt(2) * 1.3 * 0.2
    shifted[torch.arange(len(label)), label] -= math.sqrt(2) * 1.3 * 0.2
    expected = -shifted.log_softmax(1).gather(1, label[:, None]).mean()
    assert lmt_loss(logits, label, lipschitz, 0.2).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("progress", [0, 0.01, 0.3, 1])
def test_schedule_is_equation_b_14(progress):
    assert polynomial(1e-3, 1e-12, 50, progress) == pytest.approx(1e-12 + (1e-3 - 1e-12) * (1 - progress) ** 50)


@pytest.mark.parametrize("constants", ["pairwise", "per_logit"])
@pytest.mark.parametrize("detach", [True, False])
def test_the_cross_entropy_has_no_gradient_in_k_unless_asked(composed, detach, constants):
    config = composed("method=cll", "dataset=digits", f"method.detach={detach}", f"method.constants={constants}")
    model = build(config["model"], shape=(1, 8, 8), classes=10)
    method = build({**config["method"], "decay": 0.0}, model=model, info=Digits("digits").info)
    bound = method.bound()
    logits = torch.randn(4, 10, requires_grad=True)
    loss = method._calibrated(logits, torch.arange(4), bound, 1.0, 0.1)
    (of_logits,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert of_logits.abs().sum() > 0
    (of_k,) = torch.autograd.grad(loss, bound.features, allow_unused=True) if loss.requires_grad else (None,)
    assert (of_k is None) == detach
    assert detach or of_k.abs() > 0


def test_the_regulariser_is_lambda_k_squared(composed):
    config = composed("method=cll", "dataset=digits", "method.decay=0.5")
    model = build(config["model"], shape=(1, 8, 8), classes=10)
    method = build(config["method"], model=model, info=Digits("digits").info)
    method._total_steps = 10
    bound = method.bound()
    (of_k,) = torch.autograd.grad(method.loss(torch.randn(4, 10), torch.arange(4), bound), bound.worst)
    torch.testing.assert_close(of_k, 2 * 0.5 * bound.worst.detach())
