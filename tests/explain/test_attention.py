"""Attention of a code's means, against the formula written out."""

import torch
from torch import nn

from trust_exp.explain.attention import offline_attention


def test_filters_are_weighted_by_their_mean_gradient():
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(60, 4)).double()
    layer = torch.randn(3, 5, 3, 4, dtype=torch.float64)
    found = offline_attention(tail, layer)
    for one, own in zip(layer, found, strict=True):
        at = one[None].clone().requires_grad_()
        tail(at).sum().backward()
        slope = at.grad[0] / at.grad.square().mean().sqrt()
        slow = sum(slope[number].mean() * one[number] for number in range(5)).abs()
        torch.testing.assert_close(own, slow)


def test_it_works_where_gradients_are_off():
    tail, layer = nn.Sequential(nn.Flatten(), nn.Linear(18, 2)), torch.randn(1, 2, 3, 3)
    with torch.inference_mode():
        found = offline_attention(tail, layer)
    torch.testing.assert_close(found, offline_attention(tail, layer).detach())
    assert offline_attention(lambda values: 0 * values.flatten(1), layer).abs().max() == 0, "no gradient, no attention"
