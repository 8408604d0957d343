"""Random numbers that belong to an image: the same in any batch, on any device, on any number of processes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trust_exp.rng import keyed_generator


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
