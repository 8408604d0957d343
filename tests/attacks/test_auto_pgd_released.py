"""The points that the attacks ask about, one by one, against those of the official library."""

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from tests.attacks.climbs import assert_the_first_two_were_halved
from trust_exp.attacks import auto_pgd_released as module
from trust_exp.attacks.auto_pgd import Score
from trust_exp.attacks.auto_pgd_released import apgd_ce, apgd_t, leave
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.noise import image_noise


class Smooth(nn.Module):
    """Six classes in float64, without the kinks that amplify rounding. Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.last = (torch.randn(*size, generator=generator).double() for size in ((12, 16), (16, 6)))
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return 3 * (x @ self.first / 2).tanh() @ self.last


def images(count: int = 3) -> tuple[Smooth, Tensor, Tensor]:
    model, x = Smooth(), torch.rand(count, 12, generator=torch.Generator().manual_seed(0)).double()
    y = model(x).argmax(1)
    model.asked.clear()
    return model, x, y


EPSILON = {"L2": 0.05, "Linf": 0.02}


def first_point(x: Tensor, norm: str, *key: object) -> Tensor:
    """At distance epsilon in a random direction of each image's own, clipped to the domain."""
    draw = torch.randn if norm == "L2" else torch.rand
    noise = image_noise(draw, x.shape[1:], torch.arange(len(x)), 0, *key).double()
    if norm == "L2":
        return (x + EPSILON[norm] * noise / noise.norm(dim=1, keepdim=True)).clamp(0, 1)
    noise = 2 * noise - 1
    return (x + EPSILON[norm] * noise / noise.abs().amax(1, keepdim=True)).clamp(0, 1)


def official(attack: APGDAttack, model: Smooth, x: Tensor, y: Tensor, start: Tensor) -> list[Tensor]:
    attack.init_hyperparam(x)
    model.asked.clear()
    attack.attack_single_run(x, y, x_init=start)
    return list(model.asked)


@pytest.mark.parametrize("norm", EPSILON)
def test_the_steps_on_the_cross_entropy_are_the_official_ones(norm):
    model, x, y = images()
    x_adv = apgd_ce(model, x, y, EPSILON[norm], norm=norm)
    asked = list(model.asked)
    assert torch.equal(x_adv, x), "no image breaks, so none leaves"
    attack = APGDAttack(model, norm=norm, eps=EPSILON[norm], device="cpu")
    expected = official(attack, model, x, y, first_point(x, norm, "apgd-ce", 0))
    assert len(asked) == len(expected) == 101
    torch.testing.assert_close(torch.stack(asked), torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", EPSILON)
@pytest.mark.parametrize("few", [0, 32])
def test_the_steps_towards_each_target_are_the_official_ones(norm, few, monkeypatch):
    monkeypatch.setattr(module, "_FEW", few)
    model, x, y = images()
    ranked = model(x).argsort(1, descending=True)
    model.asked.clear()
    x_adv = apgd_t(model, x, y, EPSILON[norm], norm=norm, targets=3)
    assert torch.equal(x_adv, x), "no image breaks, so none leaves"
    assert torch.equal(model.asked[0], x)
    runs = torch.stack(model.asked[1:])
    if few:
        assert runs.shape[:2] == (101, 9)
        runs = torch.cat(runs.chunk(3, 1))
    for rank, asked in enumerate(runs.split(101), 1):
        attack = APGDAttack_targeted(model, norm=norm, eps=EPSILON[norm], device="cpu")
        attack.y_target = ranked[:, rank]
        expected = official(attack, model, x, y, first_point(x, norm, "apgd-t", rank))
        torch.testing.assert_close(asked, torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", EPSILON)
def test_an_image_leaves_at_the_first_wrong_point(norm):
    model, x, y = images(8)
    found, epsilon = 0, 6 * EPSILON[norm]
    together = apgd_ce(model, x, y, epsilon, norm=norm)
    for number, (image, label) in enumerate(zip(x.split(1), y.split(1), strict=True)):
        model.asked.clear()
        x_adv = apgd_ce(model, image, label, epsilon, norm=norm, index=torch.tensor([number]))
        torch.testing.assert_close(together[number : number + 1], x_adv, rtol=0, atol=1e-6)
        asked = torch.cat(model.asked)
        wrong = model(asked).argmax(1) != label
        if wrong.any():
            found += len(asked) > 1
            assert wrong.tolist() == [False] * (len(asked) - 1) + [True]
            assert torch.equal(x_adv[0], asked[-1])
        else:
            assert len(asked) == 101
            assert torch.equal(x_adv, image)
    assert found


def test_the_target_is_ahead_also_where_the_largest_logits_tie():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    assert module._targeted_dlr(logits, torch.tensor([4]), torch.tensor([0])).item() == pytest.approx(1e12)
    logits = torch.tensor([[4.0, 3.0, 1.0, 0.0, -5.0]])
    assert module._targeted_dlr(logits, torch.tensor([0]), torch.tensor([1])).item() == pytest.approx(-1 / 3.5)


def test_the_step_is_halved_by_the_conditions_of_the_paper():
    """Of 10 steps at most 7.5 rose; or no better loss since the last checkpoint, which did not halve it."""
    places = torch.arange(4, dtype=torch.float64)[:, None]
    ball = Ball.around(torch.zeros(4, 1, dtype=torch.float64), 1.0, domain=None)
    state = module._Climb.begin(ball, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), places)
    state.rises, state.halved = torch.tensor([7, 8, 8, 8]), torch.tensor([False, False, False, True])
    state.best_loss, state.checked_loss = torch.tensor([2.0, 1.0, 2.0, 1.0]), torch.ones(4)
    state.best_point, state.best_gradient, state.gradient = places - 10, places - 20, places + 10
    state.adapt(10)
    assert_the_first_two_were_halved(state)


def test_every_rise_counts_and_the_best_point_is_kept():
    places = torch.arange(3, dtype=torch.float64)[:, None]
    ball = Ball.around(torch.zeros(3, 1, dtype=torch.float64), 1.0, domain=None)
    state = module._Climb.begin(ball, torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), places)
    state.loss, state.best_loss, state.best_point = (
        torch.tensor([4.0, 4.0, 4.0]),
        torch.tensor([5.0, 5.0, 4.0]),
        -places,
    )
    state.record(Score(torch.tensor([4.1, 4.0, 4.5]), places + 7, torch.zeros(3, dtype=torch.bool)))
    assert state.rises.tolist() == [1, 0, 1]
    assert state.best_loss.tolist() == [5.0, 5.0, 4.5]
    assert state.best_point.flatten().tolist() == [0.0, -1.0, 2.0]
    assert torch.equal(state.gradient, places + 7)


def test_an_image_that_any_target_breaks_leaves_with_the_point_of_the_first():
    x_adv, left = torch.zeros(4, 1), torch.tensor([0, 2, 3])
    found = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])  # of two targets, one after the other
    broken = torch.tensor([True, False, False, True, True, False])
    assert leave(x_adv, left, found, broken).tolist() == [3]
    assert x_adv.flatten().tolist() == [1.0, 0.0, 5.0, 0.0]
