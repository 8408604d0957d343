"""Activations and their derivatives, against torch's own activations and automatic differentiation."""

import pytest
import torch
from torch import nn

from trust_exp.explain.activations import BENDS, bent

KINDS = {"silu": nn.SiLU, "elu": nn.ELU, "gelu": nn.GELU, "softplus": nn.Softplus, "tanh": nn.Tanh, "relu": nn.ReLU}


def derivative(values, x):
    return torch.autograd.grad(values.sum(), x, create_graph=True)[0] if values.requires_grad else torch.zeros_like(x)


@pytest.mark.parametrize("activation", BENDS)
def test_values_and_derivatives_are_those_of_autograd(activation):
    x = torch.linspace(-6, 6, 240, dtype=torch.float64, requires_grad=True)  # not at 0, where some have a kink
    value = KINDS[activation]()(x)
    first = derivative(value, x)
    second = derivative(first, x)
    for found, expected in zip(bent(x, activation), (value, first, second), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("activation", BENDS)
def test_all_three_can_be_differentiated(activation):
    x = (torch.randn(20, dtype=torch.float64) + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: bent(values, activation), (x,), atol=1e-6)


@pytest.mark.parametrize("activation", BENDS)
def test_several_are_computed_together(activation):
    x = torch.randn(3, 4, 5)
    found = torch.func.vmap(lambda own: bent(own, activation))(x)
    for one, other in zip(found, bent(x, activation), strict=True):
        torch.testing.assert_close(one, other)


def test_far_from_zero_nothing_is_nan():
    for activation in BENDS:
        x = torch.tensor([-1e4, -60.0, 60.0, 1e4], requires_grad=True)
        found = bent(x, activation)
        torch.stack([part.sum() for part in found]).sum().backward()
        assert all(part.isfinite().all() for part in (*found, x.grad)), activation


def test_at_its_kink_relu_is_flat_as_torchs():
    x = torch.zeros(1, requires_grad=True)
    assert torch.equal(torch.autograd.grad(x.relu(), x)[0], torch.zeros(1))
    assert [part.item() for part in bent(x, "relu")] == [0, 0, 0]
