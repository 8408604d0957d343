"""The fast adaptive boundary attack (Croce & Hein 2020a): searches the nearest point across the decision boundary.

It decides as the code released with AutoAttack, with less work: an image leaves as soon as a point within epsilon
breaks it, points are projected without sorting, and no parameter gradients are computed.
"""

from typing import Unpack

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.arguments import ImageOptions, under_attack
from trust_exp.attacks.auto_pgd_released import cut, leave, together
from trust_exp.attacks.ball import Ball, Domain, Norm, rowwise
from trust_exp.attacks.noise import ball_noise
from trust_exp.verdicts import predicted

_OVERSHOOT = 1.05
_BACKWARD = 0.9  # how far a point across the boundary is pulled back towards the image
_BIAS = 0.1  # largest weight of the step from the image
_FLAT = 1e-8  # smaller slopes move no pixel


def fab(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    targets: int | None = 9,
    restarts: int = 5,
    steps: int = 100,
    **options: Unpack[ImageOptions],
) -> Float[Tensor, "B *shape"]:
    """Points within epsilon that break the images, where the attack finds any.

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: correctly classified images, [B, ...], float32 or float64, inside the domain.
        y: their labels, [B], int64.
        epsilon: radius in the units of x, finite, > 0; a tensor [B] gives every image its own.
        targets: number of target classes, the most likely wrong ones, one run each, < N; None: untargeted runs towards
            the nearest boundary.
        restarts: untargeted runs; the first starts at the image, the others at random.
        steps: steps of a run, >= 1.
        options: ``norm``, ``domain``, ``seed`` and ``index``, see :class:`ImageOptions`.

    Returns:
        Shape and dtype of x: a misclassified point within epsilon, or the image itself.

    Source: Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack".
    """
    with under_attack(model, x, y, epsilon, **options) as (ball, y, index, seed):
        with torch.no_grad():
            ranked = model(ball.center).argsort(1, descending=True)
        x_adv, left = ball.center.clone(), torch.arange(len(y), device=y.device)
        run, runs = 0, restarts if targets is None else targets
        while run < runs and len(left):
            several = 1 if targets is None else together(len(left), runs - run)
            rows = left.repeat(several)
            allowed, label = ball[rows], y[rows]
            start = allowed.center
            if targets is None:
                rivals = _others(label, ranked.shape[1])
                start = _random_start(allowed, index[left.cpu()], seed, run) if run else start
            else:
                rivals = ranked[left][:, run + 1 : run + 1 + several].t().reshape(-1, 1)
            broken, points = _run(model, allowed, label, rivals, start, steps)
            left = leave(x_adv, left, points, broken)
            run += several
        return x_adv


def _others(label: Tensor, classes: int) -> Tensor:
    """All classes but the label, [B, N - 1]."""
    return (label[:, None] + torch.arange(1, classes, device=label.device)) % classes


def _random_start(ball: Ball, index: Tensor, seed: int, run: int) -> Tensor:
    """Random points at distance epsilon / 2, clipped to the domain."""
    noise = ball_noise(ball, index, seed, "fab", run)
    start = ball.center + ball.radius * noise / _like(_norm(noise.flatten(1), ball.norm), noise) / 2
    return cut(start, ball.domain)


def _run(model: nn.Module, ball: Ball, y: Tensor, rivals: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """One run: the images it breaks, [B] bool, and the points, [B, ...]; ``rivals``, [B, M], are the target classes."""
    broken, found = torch.zeros_like(y, dtype=torch.bool), ball.center.clone()
    row, center, point = torch.arange(len(y), device=y.device), ball.center, start
    for _ in range(steps):
        gap, slope = _linearised(model, point, y, rivals, ball.norm)
        point = _step(point, center, gap, slope, ball.norm, ball.domain)
        with torch.no_grad():
            across = predicted(model(point)) != y
        delta = point - center
        hit = across & (_norm(delta.flatten(1), ball.norm) <= ball.radius[row].flatten())
        if hit.any():
            broken[row[hit]], found[row[hit]] = True, point[hit]
        point = rowwise(across, center + _BACKWARD * delta, point)
        if hit.any():
            row, center, point, y, rivals = (value[~hit] for value in (row, center, point, y, rivals))
            if len(row) == 0:
                break
    return broken, found


def _linearised(model: nn.Module, point: Tensor, y: Tensor, rivals: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Nearest boundary to first order: the rival's logit minus the label's, [B], and its gradient, [B, D]."""
    point = point.detach().requires_grad_()
    logits = model(point).to(point.dtype)
    gaps = logits.gather(1, rivals) - logits.gather(1, y[:, None])
    columns = range(gaps.shape[1])
    slopes = [torch.autograd.grad(gaps[:, k].sum(), point, retain_graph=k < columns[-1])[0].flatten(1) for k in columns]
    gaps = gaps.detach()
    if len(slopes) == 1:
        return gaps[:, 0], slopes[0]
    dual = torch.stack([_norm(slope, "L2" if norm == "L2" else "L1") for slope in slopes], 1)
    nearest = (gaps.abs() / (dual + 1e-12)).argmin(1)
    rows = torch.arange(len(point), device=point.device)
    return gaps[rows, nearest], torch.stack(slopes, 1)[rows, nearest]


def _step(point: Tensor, center: Tensor, gap: Tensor, slope: Tensor, norm: Norm, domain: Domain) -> Tensor:
    """Mix of the steps from the point and from the image onto the linearised boundary, with overshoot."""
    p, c = point.flatten(1), center.flatten(1)
    both = torch.cat((p, c))
    excess = torch.cat((gap, gap + ((c - p) * slope).sum(1)))
    moves = to_hyperplane(both, slope.repeat(2, 1), excess, norm, domain)
    lengths = _norm(moves, norm).clamp_min(1e-8)
    near, far = lengths.chunk(2)
    weight = (near / (near + far)).clamp(max=_BIAS)[:, None]
    ends = (both + _OVERSHOOT * moves).chunk(2)
    moved = torch.lerp(ends[0], ends[1], weight).view_as(point)
    return cut(moved, domain)


def to_hyperplane(
    point: Float[Tensor, "B D"], normal: Float[Tensor, "B D"], excess: Float[Tensor, " B"], norm: Norm, domain: Domain
) -> Float[Tensor, "B D"]:
    """Shortest move, [B, D], from points inside the domain onto {z: normal (z - point) + excess = 0} inside it.

    A pixel moves against its slope, in proportion to it (L2) or as far as the others (Linf), until it meets the edge of
    the domain: solve sum_i g_i min(t, r_i) = |excess| for t. The left side is concave and piecewise linear, so Newton's
    method climbs from 0 to the exact solution in a few passes, without sorting. If the hyperplane is out of reach even
    with all pixels at their edges, that corner is returned.

    Args:
        point: [B, D].
        normal: [B, D].
        excess: [B].
        norm: norm that the move minimises, "L2" or "Linf".
        domain: range of the data; None: unbounded.
    """
    down = normal * torch.where(excess >= 0, -1.0, 1.0)[:, None].to(normal)
    if norm == "L2":
        down = F.hardshrink(down, _FLAT)
    size = down.abs()
    speed = size if norm == "L2" else down.sign().abs()
    gain, wanted = size * speed, excess.abs()[:, None]
    time = wanted / gain.sum(1, keepdim=True)
    if domain is None:
        return down.sign() * (time * speed).nan_to_num(0.0)
    room = torch.where(down > 0, domain[1] - point, point - domain[0])
    until, ends = room / speed, size * room  # when a pixel meets its edge, and its gain by then
    mask = torch.empty_like(room)  # a float mask: on a CPU several times as fast as a boolean one
    while True:
        blocked = (ends * torch.le(until, time, out=mask)).sum(1, keepdim=True)
        later = (wanted - blocked) / (gain * torch.gt(until, time, out=mask)).sum(1, keepdim=True)
        later = torch.where(blocked < wanted, later, time).nan_to_num(torch.inf, torch.inf)
        if not (later > time).any():
            break
        time = torch.maximum(time, later)
    return down.sign() * torch.fmin(time * speed, room)  # fmin: without a slope, time * speed may be NaN


def _norm(v: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(v, {"L1": 1, "L2": 2, "Linf": torch.inf}[norm], dim=1)


def _like(per_image: Tensor, v: Tensor) -> Tensor:
    return per_image.view(-1, *[1] * (v.ndim - 1))
