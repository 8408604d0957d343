"""Localisation without masks: something foreign is pasted into normal images, so that its place is known exactly."""

import torch
from torch import Tensor
from torch.nn import functional as F

from trust_exp.evals.suite import Context
from trust_exp.metrics.anomaly import auroc, ranked
from trust_exp.results.record import Row
from trust_exp.rng import keyed_generator

SQUARE = 5  # its side is a fifth of the image's
BATCH = 200  # images at a time
HOW = {  # what is pasted
    "square": "a square of one random value",
    "foreign": "another class at half of its size; the brighter pixel is seen",
}


def with_square(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W] with a square of one random value each, somewhere."""
    found = image.clone()
    height, width = image.shape[2:]
    side = max(1, min(height, width) // SQUARE)
    for own in found:
        top, left = _corner(height - side, width - side, generator)
        own[:, top : top + side, left : left + side] = torch.rand(1, generator=generator).item()
    return found


def with_foreign(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W] with another one at half of its size over each, somewhere; the brighter pixel is seen."""
    small = F.avg_pool2d(other, 2, ceil_mode=True, count_include_pad=False)
    found = image.clone()
    (height, width), (tall, wide) = image.shape[2:], small.shape[2:]
    for own, pasted in zip(found, small, strict=True):
        top, left = _corner(height - tall, width - wide, generator)
        place = own[:, top : top + tall, left : left + wide]
        place.copy_(torch.maximum(place, pasted))
    return found


def _corner(height: int, width: int, generator: torch.Generator) -> tuple[int, int]:
    top, left = (int(torch.randint(0, most + 1, (1,), generator=generator)) for most in (height, width))
    return top, left


@torch.no_grad()
def pasted_rows(context: Context, samples: int) -> list[Row]:
    """How well each map of the network finds what was pasted: the AUROC of pixels, mean over the models.

    Args:
        samples: normal test images for each model, the first ones.
    """
    rows = []
    for kind, how in HOW.items():
        found: dict[str, list[float]] = {}
        count = 0
        for model in range(len(context.info.normal)):
            image, pasted = _pairs(context, kind, model, samples)
            count += len(image)
            for name, value in _areas(context, model, image, pasted).items():
                found.setdefault(name, []).append(value)
        rows += [
            Row(f"anomaly/pasted_{kind}/{name}_auroc", sum(values) / len(values), n=count, detail={"how": how})
            for name, values in found.items()
        ]
    return rows


def _pairs(context: Context, kind: str, model: int, samples: int) -> tuple[Tensor, Tensor]:
    """Normal images of a model, and the same with something pasted; none where nothing foreign is at hand."""
    data, generator = context.data, keyed_generator(context.seed, "pasted", kind, model)
    normal = torch.isin(data.served_labels("test"), torch.tensor(context.info.normal[model]))
    own, others = (places.nonzero().squeeze(1) for places in (normal, ~normal))
    own = own[: samples if len(others) or kind == "square" else 0]
    image = data.samples("test", own).image
    if kind == "square" or not len(own):
        return image, with_square(image, generator)
    drawn = others[torch.randint(len(others), (len(own),), generator=generator)]
    return image, with_foreign(image, data.samples("test", drawn).image, generator)


def _areas(context: Context, model: int, image: Tensor, pasted: Tensor) -> dict[str, float]:
    """The AUROC of pixels of each map of a model: those that were changed against the others."""
    maps: dict[str, list[Tensor]] = {}
    for part in pasted.split(BATCH):
        for name, scores in context.model(part.to(context.device)).items() if len(part) else ():
            if name == "maps" or name.startswith("attention"):
                maps.setdefault(name, []).append(scores[:, model].cpu())
    changed = (pasted != image).any(1).flatten()
    return {name: auroc(ranked(torch.cat(scores).flatten(), changed)).item() for name, scores in maps.items()}
