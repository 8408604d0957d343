"""The gradient of the image through a first convolution, against the one that torch takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trust_exp.attacks.mode import attack_mode
from trust_exp.attacks.thin import _ThinConvolution, thin_convolutions


def gradient(layer: nn.Module, x: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    point = x.clone().requires_grad_()
    out = layer(point)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    return out.detach(), torch.autograd.grad(out, point, towards)[0]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_outputs_are_the_same_and_gradients_agree(channels, kernel, stride, padding, dilation, size, bias, last):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 5, kernel, stride, padding, dilation, bias=bias).double().requires_grad_(False)
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if last else x
    out, plain = gradient(layer, x)
    with thin_convolutions(layer):
        thin_out, thin = gradient(layer, x)
    assert torch.equal(thin_out, out)
    torch.testing.assert_close(thin, plain, rtol=1e-12, atol=1e-12)


class Own(nn.Conv2d):
    """A convolution of another kind."""


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(3, 8, 3), True),
        (nn.Conv2d(5, 8, 3), False),
        (nn.Conv2d(4, 8, 3, groups=2), False),
        (nn.Conv2d(3, 8, 3, padding="same"), False),
        (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(3, 8, 3).bfloat16(), False),
        (Own(3, 8, 3), False),
    ],
)
def test_it_is_used_where_it_holds_and_gone_afterwards(layer, taken, monkeypatch):
    calls = []
    apply = _ThinConvolution.apply
    monkeypatch.setattr(_ThinConvolution, "apply", lambda *given: calls.append(given) or apply(*given))
    x = torch.rand(2, layer.in_channels, 8, 8, dtype=layer.weight.dtype)
    with attack_mode(layer):
        layer(x)
    assert len(calls) == taken
    assert "forward" not in vars(layer)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with thin_convolutions(layer):  # its weight is a variable here
        layer.weight.grad = None
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert len(calls) == taken


def test_autocast_and_forwards_of_their_own_are_left_alone():
    layer = nn.Conv2d(3, 8, 3).requires_grad_(False)
    with thin_convolutions(layer), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(2, 3, 8, 8)).dtype == torch.bfloat16
    layer.forward = own = lambda x: x
    with attack_mode(layer):
        assert layer.forward is own
    assert layer.forward is own
