"""Random numbers that belong to an image: the same in any batch, on any device, on any number of processes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trust_exp.attacks.ball import Ball
from trust_exp.rng import keyed_generator


def names_of(x: Tensor, index: Tensor | None) -> Tensor:
    """What the images of a batch are called, int64 [B] on the CPU: ``index``, or their places in the batch."""
    return torch.arange(len(x)) if index is None else index.cpu()


def ball_noise(ball: Ball, index: Tensor, *key: int | str) -> Tensor:
    """Noise of an attack's random start, shape and device of the images: Gaussian for L2, uniform in (-1, 1) for Linf.

    ``index`` and ``key`` as of :func:`image_noise`.
    """
    draw = torch.randn if ball.norm == "L2" else torch.rand
    noise = image_noise(draw, ball.center.shape[1:], index, *key).to(ball.center)
    return noise if ball.norm == "L2" else 2 * noise - 1


def image_noise(draw: Callable[..., Tensor], shape: Sequence[int], index: Tensor, *key: int | str) -> Tensor:
    """One draw per image, [B, *shape], float32 on the CPU, each from a generator keyed by ``key`` and the image.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        shape: of what one image needs.
        index: names of the images, [B], int64; equal names get equal numbers.
        key: what the numbers are for, e.g. ``0, "apgd-t", 2``.
    """
    drawn = [draw(tuple(shape), generator=keyed_generator(*key, image)) for image in index.tolist()]
    return torch.stack(drawn) if drawn else torch.empty(0, *shape)
