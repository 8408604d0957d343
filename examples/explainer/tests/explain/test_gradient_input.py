"""Gradient times input against captum's."""

import torch
from captum.attr import InputXGradient
from torch import nn
from trust_exp.explain.gradient_input import gradient_times_input


def test_it_is_that_of_captum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    image, label = torch.rand(5, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    expected = InputXGradient(model).attribute(image.requires_grad_(), target=label).sum(1).abs()
    assert torch.allclose(gradient_times_input(model, image, label), expected, atol=1e-6)
