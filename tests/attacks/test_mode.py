import pytest
import torch
from torch import nn

from trust_exp.attacks.mode import attack_mode


def half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def state(model: nn.Module) -> tuple:
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad is None, p.detach().clone().tolist()) for p in model.parameters()],
        [buffer.clone().tolist() for buffer in model.buffers()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails: bool):
    model = half_frozen()
    model(torch.rand(5, 1, 8, 8)).sum().backward()
    before, gradient = state(model), model[4].weight.grad.clone()
    try:
        with attack_mode(model):
            assert not any(module.training for module in model.modules())
            x = torch.rand(5, 1, 8, 8, requires_grad=True)
            model(x).sum().backward()
            assert x.grad is not None
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert state(model) == before
    assert torch.equal(model[4].weight.grad, gradient)


def test_gradients_flow_below_inference_mode():
    model = half_frozen()
    with torch.inference_mode():
        x = torch.rand(2, 1, 8, 8)
        with attack_mode(model):
            point = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(point).sum(), point)
        assert torch.is_inference_mode_enabled()
    assert gradient.abs().sum() > 0


def test_a_model_that_keeps_a_cache_in_evaluation_is_told_that_training_goes_on():
    class Cached(nn.Linear):
        cached = False

        def train(self, mode: bool = True):
            self.cached = not mode
            return super().train(mode)

    model = Cached(2, 2).train()
    with attack_mode(model):
        assert model.cached
    assert not model.cached
