"""Deletion and insertion: do the places that an explanation points at matter to the prediction?"""

from collections.abc import Callable

import torch
from torch import Tensor

from trust_exp.data.batch import Split
from trust_exp.evals.suite import Context
from trust_exp.explain.deletion import area, deletion_curves
from trust_exp.results.record import Row, mean
from trust_exp.rng import keyed_generator


@torch.no_grad()
def deletion_rows(
    context: Context, lead: str, split: Split, samples: int, look: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> list[Row]:
    """Areas under deletion and insertion of what an explanation finds important, and of places at random.

    Args:
        lead: before the names of the rows, such as "prototypes/".
        samples: the first so many of the split.
        look: maps images to the importance of their places, [B, h, w], and the predicted classes, int64 [B].
    """
    rows = torch.arange(context.data.size(split))[:samples]
    found: dict[str, list[Tensor]] = {}
    for part in rows.split(100):
        images = context.data.samples(split, part).image.to(context.device)
        importance, predicted = look(images)
        noise = torch.rand(importance.shape, generator=keyed_generator(context.seed, "deletion", int(part[0])))
        for name, places in (("", importance), ("_at_random", noise.to(importance))):
            curves = deletion_curves(context.model, images, places, predicted)
            for kind, curve in zip(("deletion", "insertion"), curves, strict=True):
                found.setdefault(f"{lead}{kind}{name}", []).append(area(curve))
    return [mean(name, torch.cat(areas).cpu().numpy(), "probability") for name, areas in found.items()]
