"""Measures of difficulty against plain re-implementations in float64, and what they promise of any input."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trust_exp.metrics.difficulty import (
    entropy,
    logit_gradient,
    signed_variance,
    standardised_by_class,
    svar,
    variance_of_gradients,
)


def softmax(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


@pytest.fixture
def logits():
    return 4 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))


def test_entropy_is_the_sum_of_equation_3_3(logits):
    slow = [-sum(p * math.log(p) for p in softmax(row)) for row in logits.tolist()]
    torch.testing.assert_close(entropy(logits), torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_signed_variance_is_the_variance_with_the_sign_of_the_verdict(logits, labels):
    slow = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        chances = softmax(row)
        mean = sum(chances) / 7
        variance = sum((chance - mean) ** 2 for chance in chances) / 7
        slow.append(variance if chances.index(max(chances)) == label else -variance)
    assert {value > 0 for value in slow} == {True, False}
    expected = torch.tensor(slow, dtype=torch.float64)
    torch.testing.assert_close(signed_variance(logits, labels), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(svar(logits, labels), -expected, rtol=1e-12, atol=1e-12)


def test_the_hard_end_of_each_measure():
    sure, boundary, wrong = [9.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 9.0, 0.0]
    logits, labels = torch.tensor([sure, boundary, wrong]), torch.zeros(3, dtype=torch.int64)
    assert svar(logits, labels).argsort(descending=True).tolist() == [2, 1, 0]
    assert entropy(logits)[1] > entropy(logits)[0]
    assert entropy(logits)[2] == pytest.approx(entropy(logits)[0]), "entropy knows no label"


@given(
    st.integers(2, 1000),
    st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    st.floats(-1e4, 1e4),
    st.integers(0, 2**31),
)
def test_bounds_and_a_common_shift(classes, scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (3,), generator=generator)
    found, signed = entropy(logits), signed_variance(logits, labels)
    assert (found >= 0).all()
    assert (found <= math.log(classes) + 1e-9).all()
    assert (signed.abs() <= (classes - 1) / classes**2 + 1e-12).all()
    assert ((signed >= 0) == (logits.argmax(1) == labels)).all() or (signed == 0).any()
    torch.testing.assert_close(entropy(logits + shift), found, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(signed_variance(logits + shift, labels), signed, rtol=1e-6, atol=1e-8)


def test_no_measure_is_undefined_at_extreme_logits():
    logits = torch.tensor([[1e30, -1e30, 0.0], [0.0, 0.0, 0.0]])
    assert entropy(logits).tolist() == pytest.approx([0.0, math.log(3)])
    assert signed_variance(logits, torch.tensor([0, 1])).tolist() == pytest.approx([2 / 9, 0.0])


def test_the_gradient_is_that_of_the_label_s_logit_by_differences():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 5)).double().eval()
    images, labels = torch.rand(2, 3, 6, 6, dtype=torch.float64), torch.tensor([3, 1])
    found = logit_gradient(net, images, labels)
    assert found.shape == images.shape
    with torch.no_grad():
        for row, channel, y, x in ((0, 0, 0, 0), (0, 2, 5, 3), (1, 1, 2, 2)):
            step = torch.zeros_like(images)
            step[row, channel, y, x] = 1e-5
            change = net(images + step) - net(images - step)
            assert found[row, channel, y, x] == pytest.approx(float(change[row, labels[row]]) / 2e-5, rel=1e-5)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (6, 1, 5, 4), (6, 9)], ids=["colour", "grey", "vectors"])
def test_vog_is_what_storing_all_gradients_gives(shape):
    torch.manual_seed(0)
    gradients = [3 + torch.randn(shape, dtype=torch.float64) * (number + 1) for number in range(4)]
    stored = np.stack([gradient.numpy() for gradient in gradients])
    if stored.ndim == 5:
        stored = stored.mean(2)
    slow = [np.sqrt(((stored[:, i] - stored[:, i].mean(0)) ** 2).sum(0) / 4).mean() for i in range(6)]
    np.testing.assert_allclose(variance_of_gradients(iter(gradients)).numpy(), slow, rtol=1e-12)


def test_vog_needs_a_difference_and_sees_only_that():
    gradient = torch.randn(4, 3, 2, 2)
    assert variance_of_gradients([gradient] * 3).abs().max() < 1e-7
    far = [gradient.double() + 1e6, gradient.double() + 1e6 + 2]
    torch.testing.assert_close(variance_of_gradients(far), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="two gradients or more; got 1"):
        variance_of_gradients([gradient])


def test_standardised_scores_of_each_class_have_mean_0_and_deviation_1():
    torch.manual_seed(0)
    score, label = torch.rand(60, dtype=torch.float64), torch.arange(60) % 3
    score[label == 1] += 5
    lone = torch.cat([score, torch.tensor([7.0])]), torch.cat([label, torch.tensor([3])])
    found = standardised_by_class(*lone)
    for number in range(3):
        own = found[lone[1] == number].numpy()
        assert own.mean() == pytest.approx(0, abs=1e-12)
        assert own.std() == pytest.approx(1)
    assert found[-1] == 0
    kept = copy.copy(score[label == 1]).argsort()
    assert torch.equal(found[:60][label == 1].argsort(), kept), "the order within a class stays"


def test_a_class_that_cannot_be_has_no_part_in_the_entropy():
    found = entropy(torch.tensor([[0.0, 0.0, -math.inf], [1.0, -math.inf, -math.inf]]))
    assert found.tolist() == pytest.approx([math.log(2), 0.0])
