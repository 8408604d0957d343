"""Second derivatives of latents, against the explicit Hessian in float64."""

import pytest
import torch
from torch import nn

from tests.explain.test_activations import KINDS
from trust_exp.explain.activations import BENDS
from trust_exp.explain.curvature import (
    diagonal,
    diagonal_estimate,
    row_sums,
    row_sums_of_chain,
    row_sums_of_each,
)

SMOOTH = (nn.SiLU, nn.ELU, nn.CELU, nn.GELU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Mish)


def tail_of(activation, latents=3):
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3, padding=1), activation(), nn.Flatten(), nn.Linear(36, 5), activation())
    return nn.Sequential(*layers, nn.Linear(5, latents)).double()


@pytest.fixture(params=SMOOTH, ids=lambda kind: kind.__name__)
def tail(request):
    return tail_of(request.param)


@pytest.fixture
def layer():
    return torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)


def hessians(tail, layer):
    """Of each latent of each sample, [B, d, F, F]: autograd's own, one at a time."""
    size = layer[0].numel()

    def hessian(sample, latent):
        found = torch.autograd.functional.hessian(lambda one: tail(one[None])[0, latent], sample)
        return found.reshape(size, size)

    latents = tail(layer).shape[1]
    return torch.stack([torch.stack([hessian(one, number) for number in range(latents)]) for one in layer.detach()])


def test_row_sums_of_each_latent_are_those_of_its_hessian(tail, layer):
    expected = hessians(tail, layer).sum(-1).view(2, 3, 2, 3, 4)
    torch.testing.assert_close(row_sums_of_each(tail, layer), expected, rtol=1e-9, atol=1e-12)


def test_row_sums_of_sums_are_those_of_the_summed_hessians(tail, layer):
    each = hessians(tail, layer).sum(-1).view(2, 3, 2, 3, 4)
    torch.testing.assert_close(row_sums(tail, layer)[:, 0], each.sum(1), rtol=1e-9, atol=1e-12)
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    expected = torch.einsum("rd,bdchw->brchw", weights, each)
    torch.testing.assert_close(row_sums(tail, layer, weights), expected, rtol=1e-9, atol=1e-12)


def test_the_diagonal_is_that_of_the_summed_hessians(tail, layer):
    expected = hessians(tail, layer).sum(1).diagonal(dim1=1, dim2=2).view(2, 2, 3, 4)
    torch.testing.assert_close(diagonal(tail, layer), expected, rtol=1e-9, atol=1e-12)


def test_the_estimated_diagonal_is_unbiased(layer):
    """Its mean lies as far from the diagonal as its variance allows: sum over j != i of H_ij², per draw."""
    tail, draws = tail_of(nn.Tanh), 400
    hessian = hessians(tail, layer).sum(1)
    expected = hessian.diagonal(dim1=1, dim2=2)
    variance = hessian.square().sum(-1) - expected.square()
    found = diagonal_estimate(tail, layer, draws, torch.Generator().manual_seed(1)).flatten(1)
    errors = (found - expected) / (variance / draws).sqrt()
    assert errors.abs().max() < 4.5  # of 48 standard normal numbers
    assert 0.7 < errors.square().mean() < 1.4


def test_a_separable_function_needs_one_draw(layer):
    found = diagonal_estimate(lambda values: (values**3).flatten(1), layer, 1, torch.Generator())
    torch.testing.assert_close(found, 6 * layer.detach())


def test_row_sums_are_differentiated_again():
    """Third order: the gradient of the row sums with respect to the tail's weights and to those of the latents."""
    layer = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def found(matrix, weights):
        return row_sums(lambda values: torch.tanh(values @ matrix) ** 2, layer, weights)

    matrix = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(found, (matrix, weights))


@pytest.mark.parametrize("activation", BENDS)
def test_row_sums_of_a_chain_are_those_of_its_hessian(activation):
    """With odd sizes and strides; and their gradients are those of the general way."""
    torch.manual_seed(0)
    chain = (nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), nn.Linear(32, 6))
    head, act = nn.Linear(6, 3), KINDS[activation]()
    modules = nn.ModuleList([*chain, head]).double()
    layer = torch.randn(3, 2, 3, 5, dtype=torch.float64)

    def tail(values):
        for linear in chain:
            values = act(linear(values.flatten(1) if isinstance(linear, nn.Linear) else values))
        return head(values).square()

    found, hidden = row_sums_of_chain(chain, activation, lambda values: head(values).square(), layer)
    torch.testing.assert_close(head(hidden).square(), tail(layer))
    each = hessians(tail, layer.requires_grad_()).sum(-1).view(3, 3, 2, 3, 5)
    torch.testing.assert_close(found, each.sum(1), rtol=1e-9, atol=1e-12)
    noise = torch.randn_like(found)
    fast = torch.autograd.grad((found * noise).sum(), list(modules.parameters()), allow_unused=True)
    slow = torch.autograd.grad(
        (row_sums(tail, layer)[:, 0] * noise).sum(), list(modules.parameters()), allow_unused=True
    )
    for one, other in zip(fast, slow, strict=True):
        if other is not None and one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
        else:
            assert all(value is None or not value.any() for value in (one, other))


def test_samples_do_not_mix(tail, layer):
    alone = torch.cat([row_sums(tail, one) for one in (sample[None] for sample in layer)])
    torch.testing.assert_close(row_sums(tail, layer), alone)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity])
def test_what_is_linear_in_pieces_has_no_curvature(activation, layer):
    tail = tail_of(activation)
    zero = torch.zeros_like(layer)
    assert torch.equal(row_sums(tail, layer)[:, 0], zero)
    assert torch.equal(row_sums_of_each(tail, layer)[:, 1], zero)
    assert torch.equal(diagonal(tail, layer), zero)
    assert torch.equal(diagonal_estimate(tail, layer, 1, torch.Generator()), zero)
    assert torch.equal(row_sums(lambda values: 3 * values.flatten(1), layer)[:, 0], zero)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off_outside(tail, layer, off):
    expected = hessians(tail, layer).sum(-1).view(2, 3, 2, 3, 4)
    with off():
        found = row_sums_of_each(tail, layer)
        assert torch.equal(found, row_sums_of_each(tail, layer))
        torch.testing.assert_close(row_sums(tail, layer)[:, 0], expected.sum(1), rtol=1e-9, atol=1e-12)
        assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_row_sums_of_several_networks_are_found_together(layer):
    tails = [tail_of(nn.SiLU) for _ in range(3)]
    for tail in tails[1:]:
        for parameter in tail.parameters():
            parameter.data.mul_(1.1).add_(0.01)
    parameters, _ = torch.func.stack_module_state(tails)
    found = torch.func.vmap(
        lambda own: row_sums(lambda values: torch.func.functional_call(tails[0], own, values), layer)
    )(parameters)
    for tail, own in zip(tails, found, strict=True):
        torch.testing.assert_close(own, row_sums(tail, layer), rtol=1e-9, atol=1e-12)
