"""Pictures of prototypes: where they are in images, each in its own colour, and their contributions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from trust_exp.viz.contact_sheet import Colour, Frame, Sheet, Tile, colours

RESIDUAL = (224, 62, 62)
_SIDE = 224  # smaller images are shown larger, so that heatmaps are smooth
_STRONGEST = 0.8  # opacity of a colour where its prototype is strongest


def pixels(images: Tensor) -> np.ndarray:
    """Images [B, C, H, W] in [0, 1] as uint8 [B, H', W', 3]; grey ones get three channels, small ones are enlarged."""
    factor = max(1, _SIDE // max(images.shape[2:]))
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    shown = large.expand(-1, 3, -1, -1) if images.shape[1] == 1 else large[:, :3]
    return (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def overlaid(image: np.ndarray, maps: Tensor, palette: Sequence[Colour]) -> np.ndarray:
    """An image in grey under the colour of the strongest prototype at each place, more opaque where it is stronger.

    Args:
        image: uint8 [H, W, 3].
        maps: [p, h, w], strengths in [0, 1].
        palette: a colour for each prototype.
    """
    size = image.shape[:2]
    strength = F.interpolate(maps[None].float().cpu(), size, mode="bilinear", align_corners=False)[0].clamp(0, 1)
    strongest, which = strength.max(0)
    share = (_STRONGEST * strongest).numpy()[..., None]
    colour = np.array(palette, np.float32)[which.numpy()]
    grey = image.mean(2, keepdims=True, dtype=np.float32)
    return (colour * share + grey * (1 - share)).round().astype(np.uint8)


def gallery(
    images: Tensor, maps: Tensor, rest: Tensor, weights: Sequence[float], index: Sequence[int], across: int = 8
) -> Sheet:
    """A class's prototypes: images with all of them, then for each prototype the images in which it is strongest.

    Args:
        images: [B, C, H, W] in [0, 1], of the class.
        maps: where the prototypes are, >= 0, [B, p, h, w].
        rest: where the residual prototype is, [B, h, w].
        weights: coefficients of the prototypes.
        index: numbers of the images.
    """
    shown, palette = pixels(images), colours(len(weights))
    strengths = maps / maps.amax((0, 2, 3), keepdim=True).clamp_min(1e-12)
    left = (rest.clamp_min(0) / rest.max().clamp_min(1e-12))[:, None]
    few = range(min(across, len(images)))
    strips = [
        [Tile(shown[at], f"#{index[at]}") for at in few],
        [Tile(overlaid(shown[at], strengths[at], palette), "all prototypes") for at in few],
    ]
    for number in range(len(weights)):
        best = strengths[:, number].flatten(1).amax(1).argsort(descending=True)[: len(few)].tolist()
        words = f"prototype {number + 1}"
        strips.append(
            [
                Tile(
                    overlaid(shown[at], strengths[at, number : number + 1], palette[number : number + 1]),
                    words,
                    f"#{index[at]}",
                )
                for at in best
            ]
        )
    best = left.flatten(1).amax(1).argsort(descending=True)[: len(few)].tolist()
    strips.append([Tile(overlaid(shown[at], left[at], [RESIDUAL]), "residual", f"#{index[at]}") for at in best])
    named = zip(weights, palette, strict=True)
    legend = {f"prototype {number + 1}, a = {weight:+.3g}": colour for number, (weight, colour) in enumerate(named)}
    return Sheet(strips, len(few), {"colours": legend | {"residual": RESIDUAL}})


def side_by_side(images: Tensor, maps: dict[str, Tensor], index: Sequence[int]) -> Sheet:
    """Each image without prototypes, and with each set of them.

    Args:
        images: [B, C, H, W] in [0, 1].
        maps: words -> where the prototypes of a set are, >= 0, [B, p, h, w].
        index: numbers of the images.
    """
    shown = pixels(images)
    strips = [[Tile(shown[at], f"#{number}")] for at, number in enumerate(index)]
    for words, found in maps.items():
        strengths = found / found.amax((0, 2, 3), keepdim=True).clamp_min(1e-12)
        for at, strip in enumerate(strips):
            strip.append(Tile(overlaid(shown[at], strengths[at], colours(found.shape[1])), words))
    return Sheet(strips, 2 * (1 + len(maps)))


def explanation(
    image: Tensor, maps: Tensor, rest: Tensor, parts: Sequence[float], words: tuple[str, str]
) -> Sequence[Tile]:
    """A strip: the image with the logit, each prototype of a class with its contribution, then residual and bias.

    Args:
        image: [C, H, W] in [0, 1].
        maps: [p, h, w], in [0, 1], relative to the strongest place of any of them in this image.
        rest: [h, w], likewise; negative values are not shown.
        parts: contributions of prototypes, residual and bias, p + 2 numbers, whose sum is the logit.
        words: text below the image, left and right; the logit follows.
    """
    shown = pixels(image[None])[0]
    *_, residual, bias = parts
    left = overlaid(shown, rest[None].clamp_min(0), [RESIDUAL])
    return [
        Tile(shown, words[0], f"{words[1]}: {sum(parts):.2f}"),
        *_contributing(shown, maps, parts, {}),
        Tile(left, f"{residual:+.2f} residual", f"{bias:+.2f} bias"),
    ]


def intervention(
    image: Tensor,
    maps: Tensor,
    parts: Sequence[float],
    dropped: Sequence[int],
    words: tuple[str, str],
    after: str,
    name: str,
) -> Sequence[Tile]:
    """A strip: the image, then each prototype of a class with its contribution; dropped ones say what follows.

    Args:
        image: [C, H, W] in [0, 1].
        maps: [p, h, w], in [0, 1], relative to the strongest place of any of them in this image.
        parts: contributions of the prototypes, at least p numbers.
        dropped: numbers of the dropped prototypes, from 0.
        words: text below the image, left and right.
        after: the prediction without the dropped prototypes.
        name: of the class.
    """
    shown = pixels(image[None])[0]
    first, *others = _contributing(shown, maps, parts, dict.fromkeys(dropped, f"dropped: now {after}"))
    return [Tile(shown, *words), first._replace(words=f"{first.words} for {name}"), *others]


def _contributing(shown: np.ndarray, maps: Tensor, parts: Sequence[float], remarks: Mapping[int, str]) -> list[Tile]:
    """Each prototype's map and contribution, with its remark or else its number."""
    return [
        Tile(
            overlaid(shown, maps[number : number + 1], [colour]),
            f"{parts[number]:+.2f}",
            remarks.get(number, f"{number + 1}"),
        )
        for number, colour in enumerate(colours(len(maps)))
    ]


# --- prototypes that are patches ------------------------------------------------------------------------------------


class Patch(NamedTuple):
    """A prototype that is a patch of an image [C, H, W]: number, sample, place in the grid, and weight."""

    number: int
    image: Tensor
    sample: int
    place: int
    weight: float


class Likeness(NamedTuple):
    """An image [C, H, W] and its number; for every prototype its closest place and contribution to the logit."""

    image: Tensor
    sample: int
    places: Sequence[int]
    added: Sequence[float]


ACROSS = 10  # tiles, at most


def patches_page(
    cycles: Sequence[Sequence[Patch]],
    likenesses: Sequence[Likeness],
    images: Tensor,
    parts: Sequence[Tensor],
    grid: tuple[int, int],
) -> Sheet:
    """A class's patches after each cycle, images that resemble the last ones, and NMF's prototypes after each cycle.

    Args:
        cycles: the patches after each cycle, the one with the largest weight first.
        likenesses: of other images, to the patches after the last cycle; those that add most are shown.
        images: [B, C, H, W], of the training set.
        parts: after each cycle where NMF's prototypes are in these images, in [0, 1], [B, p, h, w].
        grid: height and width of the places.
    """
    hues = colours(max(map(len, cycles)))

    def framed(image: Tensor, place: int, number: int, words: str, remark: str) -> Tile:
        shown = pixels(image[None])[0]
        (height, width), (row, column) = shown.shape[:2], divmod(place, grid[1])
        tall, wide = height / grid[0], width / grid[1]
        box = (column * wide, row * tall, (column + 1) * wide, (row + 1) * tall)
        return Tile(shown, words, remark, [Frame(box, f"{number + 1}", hues[number], False)])

    strips = [
        [
            framed(patch.image, patch.place, number, f"cycle {cycle}", f"#{patch.sample}")
            for number, patch in enumerate(patches[:ACROSS])
        ]
        for cycle, patches in enumerate(cycles, 1)
    ]
    for like in likenesses:
        adding = sorted(enumerate(cycles[-1]), key=lambda pair: -like.added[pair[1].number])
        strip: list[Tile] = []
        for number, patch in adding[: ACROSS // 2]:
            place, added = like.places[patch.number], like.added[patch.number]
            strip.append(framed(like.image, place, number, f"{added:+.2f}", f"#{like.sample}"))
            strip.append(framed(patch.image, patch.place, number, f"like {number + 1}", f"#{patch.sample}"))
        strips.append(strip)
    shown, palette = pixels(images), colours(parts[0].shape[1])
    for cycle, maps in enumerate(parts, 1):
        strips.append([Tile(overlaid(shown[at], maps[at], palette), f"NMF, cycle {cycle}") for at in range(len(shown))])
    legend = {f"prototype {number + 1}": hue for number, hue in enumerate(palette)}
    return Sheet(strips, max(map(len, strips)), {"of NMF": legend})
