"""Random numbers that belong to an image."""

import pytest
import torch

from trust_exp.attacks.ball import Ball
from trust_exp.attacks.noise import ball_noise, image_noise
from trust_exp.rng import keyed_generator


def test_noise_belongs_to_the_image():
    draw = image_noise(torch.randn, (3, 2), torch.tensor([5, 7, 5]), 0, "apgd-ce")
    assert draw.shape == (3, 3, 2)
    assert torch.equal(draw[0], draw[2])
    assert not torch.equal(draw[0], draw[1])
    assert torch.equal(draw[1:2], image_noise(torch.randn, (3, 2), torch.tensor([7]), 0, "apgd-ce"))
    assert not torch.equal(draw[1:2], image_noise(torch.randn, (3, 2), torch.tensor([7]), 1, "apgd-ce"))
    assert image_noise(torch.rand, (3,), torch.tensor([], dtype=torch.int64), 0).shape == (0, 3)


@pytest.mark.parametrize(("norm", "draw"), [("L2", torch.randn), ("Linf", torch.rand)])
def test_the_noise_of_a_ball_is_gaussian_or_uniform_on_both_sides_of_zero(norm, draw):
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    found = ball_noise(Ball.around(x, 0.1, norm=norm), torch.tensor([3, 8]), 1, "fab", 2)
    for noise, image in zip(found, (3, 8), strict=True):
        drawn = draw((3, 4, 4), generator=keyed_generator(1, "fab", 2, image)).double()
        assert torch.equal(noise, drawn if norm == "L2" else 2 * drawn - 1)
