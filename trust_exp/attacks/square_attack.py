"""Square Attack (Andriushchenko et al. 2020): random search over square windows of the perturbation, no gradients.

It decides as the code released with AutoAttack. All images share the same windows; a query that would not change an
image is skipped.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Unpack

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from trust_exp.attacks.arguments import ImageOptions, under_attack
from trust_exp.attacks.auto_pgd_released import cut
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.noise import image_noise
from trust_exp.rng import keyed_generator

_SHARE = 0.8  # part of the image that the first windows cover
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the share is halved
_TINY = 1e-12

Margin = Callable[[Tensor, Tensor], Tensor]
Window = tuple[slice, slice, slice, slice]


def square(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    queries: int = 5000,
    **options: Unpack[ImageOptions],
) -> Float[Tensor, "B *shape"]:
    """Points within epsilon that break the images, where the search finds any.

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: correctly classified images, [B, C, H, W], at least 5 x 5 pixels for L2; for Linf also any other [B, ...];
            float32 or float64, inside the domain.
        y: their labels, [B], int64.
        epsilon: radius in the units of x, finite, > 0; a tensor [B] gives every image its own.
        queries: windows tried per image.
        options: ``norm``, ``domain``, ``seed`` and ``index``, see :class:`ImageOptions`.

    Returns:
        Shape and dtype of x: a misclassified point, or the point of least margin if none was found.

    Source: Andriushchenko et al. 2020, Algorithms 1 to 3, with the numbers of AutoAttack.
    """
    images = x if x.ndim == 4 else x.reshape(len(x), -1, 1, 1)
    with under_attack(model, images, y, epsilon, **options) as (ball, y, index, seed), torch.no_grad():

        def margin(points: Tensor, label: Tensor) -> Tensor:
            logits = model(points.view(-1, *x.shape[1:])).to(points.dtype)
            right = logits.gather(1, label[:, None]).squeeze(1)
            return right - logits.scatter(1, label[:, None], -torch.inf).amax(1)

        search = _search_linf if ball.norm == "Linf" else _search_l2
        return search(margin, ball, y, queries, seed, index).view_as(x)


def _search_linf(margin: Margin, ball: Ball, y: Tensor, queries: int, seed: int, index: Tensor) -> Tensor:
    """Every pixel is at the lowest or highest value within the ball; a query moves a window to one of them."""
    low, high = (cut(ball.center + side * ball.radius, ball.domain) for side in (-1, 1))
    channels, height, width = ball.center.shape[1:]
    stripes = image_noise(torch.rand, (channels, 1, width), index, seed, "square").to(ball.center)
    best = torch.where(stripes > 0.5, high, low)
    least = margin(best, y)
    row = (least > 0).nonzero().squeeze(1)
    sides = [min(max(round(side), 1), height, width) for side in _sides(queries, height * width)]
    draws = torch.rand(queries, 2 + channels, generator=keyed_generator(seed, "square"))
    for side, draw in zip(sides, draws, strict=True):
        if len(row) == 0:
            break
        top, left = int(draw[0] * (height - side)), int(draw[1] * (width - side))
        window = _window(top, left, side)
        up = (draw[2:] > 0.5).view(-1, 1, 1).to(low.device)
        moved = torch.where(up, high[window], low[window])[row]
        changes = (moved != best[window][row]).flatten(1).any(1)
        changed, moved = row[changes], moved[changes]
        if len(changed) == 0:
            continue
        points = best[changed]
        points[window] = moved
        found = margin(points, y[changed])
        better = (found < least[changed]) | (found <= 0)
        kept = changed[better]
        best[kept], least[kept] = points[better], found[better]
        if (found <= 0).any():
            row = row[least[row] > 0]
    return best


def _search_l2(margin: Margin, ball: Ball, y: Tensor, queries: int, seed: int, index: Tensor) -> Tensor:
    """A query removes the perturbation from one window and adds two opposite pyramids to another."""
    channels, height, width = ball.center.shape[1:]
    corners = list(_tiles(height, width))
    generator = keyed_generator(seed, "square")
    turned = (torch.rand(len(corners), generator=generator) > 0.5).tolist()
    signs = image_noise(torch.rand, (len(corners) + queries, channels), index, seed, "square") > 0.5
    signs = torch.where(signs, 1, -1).to(device=y.device, dtype=torch.int8)[..., None, None]
    delta = torch.zeros_like(ball.center)
    for tile, (window, flip) in enumerate(zip(corners, turned, strict=True)):
        spot = delta[window]
        spot += (_pyramids(height // 5, flip).to(delta) * signs[:, tile])[..., : spot.shape[2], : spot.shape[3]]
    point = _at_radius(ball, delta)
    least, found_at, row = margin(point, y), point.clone(), torch.arange(len(y), device=y.device)
    sides = [min(max(round(side), 3) // 2 * 2 + 1, height, width) for side in _sides(queries, height * width)]
    draws = torch.rand(queries, 5, generator=generator)
    for query, (side, draw) in enumerate(zip(sides, draws, strict=True), len(corners)):
        broken = least <= 0
        if broken.any():  # the tensors below have one row per robust image
            found_at[row[broken]] = point[broken]
            ball = ball[~broken]
            row, point, least, y, signs = (value[~broken] for value in (row, point, least, y, signs))
        if len(row) == 0:
            break
        tops, lefts = (draw[:4:2] * (height - side)).int().tolist(), (draw[1:4:2] * (width - side)).int().tolist()
        first, second = (_window(top, left, side) for top, left in zip(tops, lefts, strict=True))
        pyramids = _pyramids(side, bool(draw[4] > 0.5)).to(point) * signs[:, query]
        tried = _at_radius(ball, _moved(point - ball.center, first, second, pyramids, ball.radius))
        found = margin(tried, y)
        better = ((found < least) | (found <= 0)).nonzero().squeeze(1)
        point[better], least[better] = tried[better], found[better]
    found_at[row] = point
    return found_at


def _moved(delta: Tensor, first: Window, second: Window, pyramids: Tensor, radius: Tensor) -> Tensor:
    """Move the length of both windows, and the unused part of epsilon, into the first; changes delta."""
    spare = (radius.square() - _squares(delta, (1, 2, 3))).clamp(min=0) / delta.shape[1]
    length = _squares(delta[first])
    shape = pyramids + delta[first] / (length.sqrt() + _TINY)
    delta[first] = 0
    length = length + _squares(delta[second])
    delta[second] = 0
    delta[first] = shape / (_squares(shape).sqrt() + _TINY) * (spare + length).sqrt()
    return delta


def _at_radius(ball: Ball, delta: Tensor) -> Tensor:
    """Points at distance epsilon in the directions of delta, clipped to the domain."""
    return cut(ball.center + delta * (ball.radius / (_squares(delta, (1, 2, 3)).sqrt() + _TINY)), ball.domain)


def _squares(v: Tensor, over: tuple[int, ...] = (2, 3)) -> Tensor:
    return v.square().sum(over, keepdim=True)


@cache
def _pyramids(side: int, turned: bool) -> Tensor:
    """Two pyramids side by side, one up and one down, [side, side], of length 1."""
    half = side // 2
    both = torch.cat((_pyramid(half, side), -_pyramid(side - half, side)))
    both = both / both.square().sum().sqrt()
    return both.T if turned else both


def _pyramid(height: int, width: int) -> Tensor:
    """Nested rectangles around the centre, the k-th from inside adds 1/k^2; [height, width], of length 1."""
    levels = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for k in range(max(height, width) // 2 + 1):
        levels[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** 2
    return levels / levels.square().sum().sqrt()


def _tiles(height: int, width: int) -> Iterator[Window]:
    """Windows of a fifth of the height, row by row; the first five rows are centred."""
    side = height // 5
    begin = (height - 5 * side) // 2
    for top in range(begin, begin + height // side * side, side):
        for left in range(begin, begin + width // side * side, side):
            yield _window(top, left, side)


def _window(top: int, left: int, side: int) -> Window:
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _sides(queries: int, pixels: int) -> Iterator[float]:
    """Side of the window for each query, from the schedule of shares of the image."""
    for query in range(queries):
        share = _SHARE / 2 ** sum(query > mark for mark in _HALVINGS)
        yield math.sqrt(share * pixels)
