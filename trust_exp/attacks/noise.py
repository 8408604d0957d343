"""Random numbers keyed by image: the same in any batch, on any device and in any number of processes."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from trust_exp.attacks.ball import Ball
from trust_exp.rng import keyed_generator


def ball_noise(ball: Ball, index: Int64[Tensor, " B"], *key: int | str) -> Float[Tensor, "B *shape"]:
    """Noise for a random start, in shape and device of the images: Gaussian for L2, uniform in (-1, 1) for Linf.

    ``index`` and ``key`` as in :func:`image_noise`.
    """
    draw = torch.randn if ball.norm == "L2" else torch.rand
    noise = image_noise(draw, ball.center.shape[1:], index, *key).to(ball.center)
    return noise if ball.norm == "L2" else 2 * noise - 1


def image_noise(
    draw: Callable[..., Tensor], shape: Sequence[int], index: Int64[Tensor, " B"], *key: int | str
) -> Float32[Tensor, "B *shape"]:
    """One draw per image, [B, *shape], float32 on the CPU, each from a generator keyed by ``key`` and the image.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        shape: of one image's draw.
        index: names of the images, [B], int64; equal names get equal numbers.
        key: purpose of the numbers, e.g. ``0, "apgd-t", 2``.
    """
    drawn = [draw(tuple(shape), generator=keyed_generator(*key, image)) for image in index.tolist()]
    return torch.stack(drawn) if drawn else torch.empty(0, *shape)
