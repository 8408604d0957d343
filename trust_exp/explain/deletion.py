"""Deletion and insertion: how fast a prediction falls or rises as its most important places are removed or added."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


def deletion_curves(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B C H W"],
    importance: Shaped[Tensor, "B h w"],
    label: Int64[Tensor, " B"],
    steps: int = 20,
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Probability of a class as its most important places are deleted, and as they are inserted into an empty image.

    An empty place has the mean colour of the image.

    Args:
        model: maps images [B, C, H, W] to logits [B, N].
        images: [B, C, H, W].
        importance: [B, h, w] of places; resized to the images.
        label: the classes, int64 [B].
        steps: number of equal parts in which places are deleted, >= 1.

    Returns:
        Deletion and insertion, each float [B, steps + 1], from no place to all places.

    Source: Petsiuk et al. 2018 (RISE), causal metrics; there an empty place is grey or blurred.
    """
    batch, _, height, width = images.shape
    fine = F.interpolate(importance[:, None].float(), (height, width), mode="bilinear", align_corners=False)
    rank = fine.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)  # 0: the most important place
    empty = images.mean((2, 3), keepdim=True).expand_as(images)
    curves = []
    for keeps_first in (False, True):
        probabilities = []
        for step in range(steps + 1):
            first = (rank < round(step / steps * height * width)).view(batch, 1, height, width)
            shown = torch.where(first == keeps_first, images, empty)
            probabilities.append(model(shown).softmax(1).gather(1, label[:, None]).squeeze(1))
        curves.append(torch.stack(probabilities, 1))
    return curves[0], curves[1]


def area(curve: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """Area under curves [B, K] over [0, 1] by the trapezoidal rule, [B]."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)
