"""Auto-PGD as released with AutoAttack, decision by decision, except that broken images leave at once.

It gives the verdicts that papers report; :func:`trust_exp.attacks.auto_pgd.apgd` is stronger.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.arguments import ImageOptions, under_attack
from trust_exp.attacks.auto_pgd import Score, checkpoints
from trust_exp.attacks.ball import Ball, Domain, Norm, rowwise
from trust_exp.attacks.noise import ball_noise
from trust_exp.verdicts import predicted

_MOMENTUM = 0.75
_RHO = 0.75
_TINY = 1e-12
_FEW = 32  # up to so many images, all targets share a batch

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def apgd_ce(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    steps: int = 100,
    **options: Unpack[ImageOptions],
) -> Float[Tensor, "B *shape"]:
    """AutoAttack's first attack: one run on the cross-entropy.

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: correctly classified images, [B, ...], float32 or float64, inside the domain.
        y: their labels, [B], int64.
        epsilon: radius in the units of x, finite, > 0; a tensor [B] gives every image its own.
        steps: gradient steps, >= 1.
        options: ``norm``, ``domain``, ``seed`` and ``index``, see :class:`ImageOptions`.

    Returns:
        Shape and dtype of x: the first misclassified iterate, or the image itself.

    Source: Croce & Hein 2020, Algorithm 1, as released.
    """
    with under_attack(model, x, y, epsilon, **options) as (ball, y, index, seed):
        start = _start(ball, index, seed, "apgd-ce", 0)
        return _climb(model, _cross_entropy, ball, y, y, start, steps)


def apgd_t(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    targets: int = 9,
    steps: int = 100,
    **options: Unpack[ImageOptions],
) -> Float[Tensor, "B *shape"]:
    """AutoAttack's second attack: one run on the targeted DLR loss per target, the most likely wrong classes first.

    Args:
        targets: number of target classes, at most N - 1; the model needs at least 4 classes.

    Other arguments and return value as in :func:`apgd_ce`.
    """
    with under_attack(model, x, y, epsilon, **options) as (ball, y, index, seed):
        with torch.no_grad():
            ranked = model(ball.center).argsort(1, descending=True)
        x_adv, left = ball.center.clone(), torch.arange(len(y), device=y.device)
        rank = 1
        while rank <= targets and len(left):
            ranks = range(rank, rank + together(len(left), targets + 1 - rank))
            rows, target = left.repeat(len(ranks)), ranked[left][:, ranks.start : ranks.stop].t().flatten()
            start = torch.cat([_start(ball[left], index[left.cpu()], seed, "apgd-t", each) for each in ranks])
            found = _climb(model, _targeted_dlr, ball[rows], y[rows], target, start, steps)
            broken = (found != ball.center[rows]).flatten(1).any(1)
            left = leave(x_adv, left, found, broken)
            rank = ranks.stop
        return x_adv


def together(images: int, targets: int) -> int:
    """Number of targets to attack at once: all that are left if the images are few and batches small, else one."""
    return targets if images <= _FEW else 1


def leave(
    x_adv: Float[Tensor, "B *shape"],
    left: Int64[Tensor, " K"],
    found: Float[Tensor, "RK *shape"],
    broken: Bool[Tensor, " RK"],
) -> Int64[Tensor, " L"]:
    """Write to ``x_adv`` the point of the first target that broke each image; the images that no target broke.

    Args:
        x_adv: [B, ...].
        left: the attacked images, int64 [K], places in x_adv.
        found, broken: points [R K, ...] and whether they break the image, bool [R K]; target by target.
    """
    runs = len(found) // len(left)
    for points, hit in reversed(list(zip(found.chunk(runs), broken.chunk(runs), strict=True))):
        x_adv[left[hit]] = points[hit]
    return left[~broken.view(runs, -1).any(0)]


def _start(ball: Ball, index: Tensor, *key: int | str) -> Tensor:
    """Random points at distance epsilon, clipped to the domain."""
    noise = ball_noise(ball, index, *key)
    return cut(ball.center + ball.radius * noise / _length(noise, ball.norm), ball.domain)


def cut(point: Float[Tensor, "*shape"], domain: Domain) -> Float[Tensor, "*shape"]:
    """``point`` clipped to the domain. Like the released code, it makes no allowance for rounding at epsilon."""
    return point if domain is None else point.clamp(*domain)


def _length(v: Tensor, norm: Norm) -> Tensor:
    order = 2 if norm == "L2" else torch.inf
    return torch.linalg.vector_norm(v.flatten(1), order, dim=1).view(-1, *[1] * (v.ndim - 1)) + _TINY


def _cross_entropy(logits: Tensor, y: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target logit minus label logit, divided by the spread of the logits, [B] (Croce & Hein 2020, Eq. 7)."""
    top = logits.topk(4, dim=1).values
    gain = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return gain / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def _climb(model: nn.Module, loss: Loss, ball: Ball, y: Tensor, target: Tensor, start: Tensor, steps: int) -> Tensor:
    """The first misclassified iterate of each image, or the image itself."""

    def score(climb: "_Climb") -> Score:
        point = climb.point.detach().requires_grad_()
        logits = model(point).to(point.dtype)
        value = loss(logits, climb.label, climb.target)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return Score(value.detach(), gradient, predicted(logits) != climb.label)

    x_adv, climb = ball.center.clone(), _Climb.begin(ball, y, target, start)
    first = score(climb)
    climb.begin_at(first)
    climb = climb.without(first.wrong, x_adv)
    marks, last = set(checkpoints(steps)), 0
    for step in range(1, steps + 1):
        if len(climb.row) == 0:
            break
        climb.advance(_MOMENTUM if step > 1 else 1.0)
        found = score(climb)
        climb.record(found)
        climb = climb.without(found.wrong, x_adv)
        if step in marks:
            climb.adapt(step - last)
            last = step
    return x_adv


@dataclass
class _Climb:
    """State of an ascent; every tensor has one row per image that is not broken yet."""

    norm: Norm
    domain: Domain
    row: Tensor  # place in the batch
    center: Tensor
    radius: Tensor  # [B, 1, ...]
    low: Tensor  # lowest and highest values within the ball, for Linf
    high: Tensor
    label: Tensor
    target: Tensor
    point: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor  # at the last point visited, before any reset to the best one
    best_point: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor  # [B, 1, ...]
    rises: Tensor  # steps since the last checkpoint that raised the loss
    checked_loss: Tensor  # best loss at the last checkpoint
    halved: Tensor  # whether the last checkpoint halved the step

    @classmethod
    def begin(cls, ball: Ball, y: Tensor, target: Tensor, start: Tensor) -> "_Climb":
        zero = torch.zeros(len(y), dtype=start.dtype, device=start.device)
        linf = ball.norm == "Linf"
        return cls(
            norm=ball.norm,
            domain=ball.domain,
            row=torch.arange(len(y), device=y.device),
            center=ball.center,
            radius=ball.radius,
            low=cut(ball.center - ball.radius, ball.domain) if linf else zero,
            high=cut(ball.center + ball.radius, ball.domain) if linf else zero,
            label=y,
            target=target,
            point=start,
            previous=start,
            gradient=start,
            loss=zero,  # not that of the start: the released code compares the first step's loss with 0
            best_point=start,
            best_gradient=start,
            best_loss=zero,
            step=2 * ball.radius,
            rises=torch.zeros_like(y),
            checked_loss=zero,
            halved=torch.ones_like(
                y, dtype=torch.bool
            ),  # the first interval has the full step and no loss to compare with
        )

    def begin_at(self, score: Score) -> None:
        self.gradient = self.best_gradient = score.gradient
        self.best_loss = self.checked_loss = score.loss

    def advance(self, momentum: float) -> None:
        """A gradient step, then momentum, each pulled back into ball and domain."""
        gradient = self.gradient
        direction = gradient.sign() if self.norm == "Linf" else gradient / _length(gradient, self.norm)
        ahead = self._pull(self.point + self.step * direction)
        moved = self.point + momentum * (ahead - self.point) + (1 - momentum) * (self.point - self.previous)
        self.previous, self.point = self.point, self._pull(moved)

    def _pull(self, point: Tensor) -> Tensor:
        if self.norm == "Linf":
            return point.clamp(self.low, self.high)
        delta = point - self.center
        return cut(self.center + delta * (self.radius / _length(delta, self.norm)).clamp(max=1), self.domain)

    def record(self, score: Score) -> None:
        """Record loss and gradient at the new point."""
        better = score.loss > self.best_loss
        self.best_point = rowwise(better, self.point, self.best_point)
        self.best_gradient = rowwise(better, score.gradient, self.best_gradient)
        self.best_loss = torch.where(better, score.loss, self.best_loss)
        self.rises = self.rises + (score.loss > self.loss)
        self.loss, self.gradient = score.loss, score.gradient

    def adapt(self, interval: int) -> None:
        """Where the ascent stalls, halve the step and return to the best point (the paper's conditions 1 and 2)."""
        stuck = ~self.halved & (self.best_loss <= self.checked_loss)
        self.halved = (self.rises <= _RHO * interval) | stuck
        self.step = rowwise(self.halved, self.step / 2, self.step)
        self.point = rowwise(self.halved, self.best_point, self.point)
        self.gradient = rowwise(self.halved, self.best_gradient, self.gradient)
        self.checked_loss, self.rises = self.best_loss, torch.zeros_like(self.rises)

    def without(self, wrong: Tensor, x_adv: Tensor) -> "_Climb":
        """Write the images that are misclassified here to ``x_adv``; the state of the others."""
        if not wrong.any():
            return self
        x_adv[self.row[wrong]] = self.point[wrong]
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {name: value[~wrong] for name, value in state.items() if isinstance(value, Tensor)}
        return replace(self, **kept)
