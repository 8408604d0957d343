"""Auto-PGD: projected gradient ascent that halves its own step size (Croce & Hein 2020, Algorithm 1).

Two changes make it stronger than the official code: :func:`error_log_odds` has a gradient at every margin, and
``_PROGRESS`` keeps rounding from counting as progress. Without them it is the same algorithm (tested).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from trust_exp.attacks.arguments import Threat, check_per_image
from trust_exp.attacks.ball import Ball, rowwise
from trust_exp.attacks.mode import attack_mode
from trust_exp.errors import check_choice, check_range
from trust_exp.rng import keyed_generator
from trust_exp.verdicts import predicted

Loss = Literal["ce", "dlr", "dlr_targeted"]

_MOMENTUM = 0.75
# Least relative rise of the loss that counts as progress. Smaller ones are rounding or a crawl along the sphere; they
# would keep the step size large to the end, and ignoring them gives slightly higher final losses.
_PROGRESS = 1e-6
_LEAST_CLASSES = {"ce": 1, "dlr": 3, "dlr_targeted": 4}


def apgd(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    steps: int = 100,
    loss: Loss = "ce",
    target: Int64[Tensor, " B"] | None = None,
    start: Float[Tensor, "B *shape"] | None = None,
    generator: torch.Generator | None = None,
    rho: float = 0.75,
    **threat: Unpack[Threat],
) -> Float[Tensor, "B *shape"]:
    """Adversarial examples by Auto-PGD; an image is broken where ``predicted(model(x_adv)) != y``.

    A broken image stops at the next checkpoint of the step-size schedule and returns its last misclassified iterate;
    a robust image returns its iterate of highest loss. Images that are misclassified from the start, or have radius 0,
    are returned unchanged.

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: clean images or points, [B, ...], float32 or float64, inside the domain; B may be 0.
        y: labels, [B], int64.
        epsilon: radius in the units of x, finite, >= 0; a tensor [B] gives every image its own.
        steps: gradient steps, >= 1; the model is evaluated steps + 2 times.
        loss: "ce", in a form that does not saturate; "dlr", which needs 3 classes; "dlr_targeted", which needs 4.
        target: target classes, [B], int64, none of them the label; for "dlr_targeted" only. An image counts as broken
            in any class but its label.
        start: first iterate, [B, ...], projected onto the ball; None: random, at distance epsilon.
        generator: source of the random start, best on the CPU; None: one with a fixed seed. The global random state is
            never used.
        rho: the step size is halved if at most this fraction of the steps since the last checkpoint raised the loss.
        threat: ``norm`` ("L2" if not given) and ``domain``, see :class:`Threat`.

    Returns:
        x_adv, shape and dtype of x; ‖x_adv − x‖ <= epsilon and inside the domain.

    Raises:
        ValueError: if an argument is out of range, or the model has too few classes for the loss.

    Source: Croce & Hein 2020, Algorithm 1.
    """
    check_choice("loss", loss, get_args(Loss))
    check_range("steps", steps, least=1)
    if not 0 < rho <= 1:
        raise ValueError(f"rho must be in (0, 1]; got {rho}")
    check_per_image("y", y, x, torch.int64)
    if start is not None and start.shape != x.shape:
        raise ValueError(f"start must have the shape of x, {list(x.shape)}; got {list(start.shape)}")
    with attack_mode(model):
        ball = Ball.around(x, epsilon, **threat)
        x_adv, labels = ball.center.clone(), _labels(y, target, loss)
        if len(x_adv) == 0:
            return x_adv
        # Drawn for the whole batch, so that an image's start does not depend on which others are classified correctly.
        first = ball.sample(generator or keyed_generator("apgd")) if start is None else ball.project(start)
        rows = _attackable(model, ball, labels, loss)
        if len(rows):
            x_adv[rows] = _climb(model, LOSSES[loss], ball[rows], labels[rows], first[rows], steps, rho)
    return x_adv


def checkpoints(steps: int) -> list[int]:
    """Iterations after which the step size may be halved: 22, 41, 57, ... of 100 steps.

    This is the paper's rule for every length; the official code truncates the gaps and so differs below 100 steps.

    Source: Croce & Hein 2020: p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06).
    """
    percent, gap, marks = 22, 22, []
    while percent < 100:
        marks.append(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
        percent += gap
    return sorted(set(marks))


def error_log_odds(logits: Float[Tensor, "B N"], y: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log(1 − p_y) − log(p_y) per image, [B], for logits [B, N]: cross-entropy without the saturation.

    Cross-entropy is its softplus. For an ascent that only compares losses and normalises gradients, as APGD does, the
    two are equivalent; but in float32 cross-entropy is flat beyond a margin of 17 and its gradient is 0 beyond 104.
    """
    differences = logits - logits.gather(1, y[:, None])
    return differences.scatter(1, y[:, None], -torch.inf).logsumexp(1)


def difference_of_logits_ratio(logits: Float[Tensor, "B N"], y: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Negative margin divided by the gap between largest and third largest logit, [B], >= -1; positive where wrong.

    Logits [B, N], N >= 3; invariant to their scale and shift.

    Source: Croce & Hein 2020, the DLR loss.
    """
    top = logits.topk(3, dim=1)
    other = torch.where(top.indices[:, 0] == y, top.values[:, 1], top.values[:, 0])
    margin = logits.gather(1, y[:, None]).squeeze(1) - other
    return -margin / (top.values[:, 0] - top.values[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(
    logits: Float[Tensor, "B N"], y: Int64[Tensor, " B"], target: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Target logit minus label logit, divided by the gap between the largest logit and the mean of third and fourth.

    [B] for logits [B, N], N >= 4; invariant to their scale and shift. Positive only where wrong.

    Source: Croce & Hein 2020, the targeted DLR loss.
    """
    top = logits.topk(4, dim=1).values
    ahead = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    return ahead.squeeze(1) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": error_log_odds,
    "dlr": difference_of_logits_ratio,
    "dlr_targeted": targeted_difference_of_logits_ratio,
}


def check_classes(loss: Loss, classes: int) -> None:
    """Raise ValueError if the model has too few classes for the loss."""
    if classes < (least := _LEAST_CLASSES[loss]):
        raise ValueError(f"loss={loss!r} needs at least {least} classes; the model has {classes}; use loss='ce'")


def _labels(y: Tensor, target: Tensor | None, loss: Loss) -> Tensor:
    """Arguments of the losses after the logits: labels [B, 1], or labels and targets [B, 2]."""
    if (target is not None) != (loss == "dlr_targeted"):
        given = "none" if target is None else "one"
        raise ValueError(f"loss='dlr_targeted' needs a target, no other loss takes one; got {given} with loss={loss!r}")
    if target is None:
        return y[:, None].clone()
    if target.shape != y.shape or target.dtype != torch.int64:
        raise ValueError(f"target must be int64 of shape {list(y.shape)}; got {target.dtype} {list(target.shape)}")
    if (target == y).any():
        raise ValueError(f"a target must differ from its label; got {int(y[target == y][0])} for both")
    return torch.stack((y, target), 1)


@torch.no_grad()
def _attackable(model: nn.Module, ball: Ball, labels: Tensor, loss: Loss) -> Tensor:
    logits = model(ball.center)
    check_classes(loss, logits.shape[1])
    return ((predicted(logits) == labels[:, 0]) & (ball.radius.flatten() > 0)).nonzero().squeeze(1)


def _climb(
    model: nn.Module,
    loss: Callable[..., Tensor],
    ball: Ball,
    labels: Tensor,
    first: Tensor,
    steps: int,
    rho: float,
) -> Tensor:
    def score(point: Tensor, labels: Tensor) -> "Score":
        point = point.detach().requires_grad_()
        logits = model(point).to(point.dtype)
        value = loss(logits, *labels.unbind(1))
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return Score(value.detach(), gradient, predicted(logits) != labels[:, 0])

    x_adv = first.clone()
    climb = _Climb.begin(ball, labels, first, score(first, labels))
    marks, last = set(checkpoints(steps)), 0
    for step in range(1, steps + 1):
        climb.advance(_MOMENTUM if step > 1 else 1.0)
        climb.record(score(climb.point, climb.labels))
        if step in marks:
            climb.adapt(step - last, rho)
            climb, last = climb.without_broken(x_adv), step
            if len(climb.row) == 0:
                break
    x_adv[climb.row] = rowwise(climb.broken, climb.breaking, climb.best_point)
    return x_adv


@dataclass(frozen=True)
class Score:
    """Loss, gradient and verdict at the current points of an ascent."""

    loss: Float[Tensor, " B"]
    gradient: Float[Tensor, "B *shape"]
    wrong: Bool[Tensor, " B"]


@dataclass
class _Climb:
    """State of an ascent; every field has one row per image that is still attacked."""

    row: Tensor  # place in the batch
    ball: Ball
    labels: Tensor  # [B, 1] or [B, 2]
    point: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor  # at the last point visited, before any reset to the best one
    best_point: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    broken: Tensor
    breaking: Tensor  # last misclassified iterate, where broken
    step: Tensor  # [B, 1, ...]
    rises: Tensor  # steps since the last checkpoint that made progress
    checked_loss: Tensor  # best loss at the last checkpoint
    halved: Tensor  # whether the last checkpoint halved the step

    @classmethod
    def begin(cls, ball: Ball, labels: Tensor, first: Tensor, score: Score) -> "_Climb":
        row = torch.arange(len(labels), device=labels.device)
        return cls(
            row=row,
            ball=ball,
            labels=labels,
            point=first,
            previous=first,
            gradient=score.gradient,
            loss=score.loss,
            best_point=first,
            best_gradient=score.gradient,
            best_loss=score.loss,
            broken=score.wrong,
            breaking=first,
            step=2 * ball.radius,
            rises=torch.zeros_like(row),
            checked_loss=score.loss,
            halved=torch.ones_like(score.wrong),  # the first interval has the full step and no loss to compare with
        )

    def advance(self, momentum: float) -> None:
        """A gradient step, then momentum, each projected (the paper's update)."""
        ahead = self.ball.project(self.point + self.step * self.ball.steepest(self.gradient))
        moved = self.point + momentum * (ahead - self.point) + (1 - momentum) * (self.point - self.previous)
        self.previous, self.point = self.point, self.ball.project(moved)

    def record(self, score: Score) -> None:
        """Record loss, gradient and verdict at the new point."""
        better = score.loss > self.best_loss
        self.best_point = rowwise(better, self.point, self.best_point)
        self.best_gradient = rowwise(better, score.gradient, self.best_gradient)
        self.best_loss = torch.where(better, score.loss, self.best_loss)
        self.rises = self.rises + (score.loss - self.loss > _PROGRESS * self.loss.abs())
        self.breaking = rowwise(score.wrong, self.point, self.breaking)
        self.broken = self.broken | score.wrong
        self.loss, self.gradient = score.loss, score.gradient

    def adapt(self, interval: int, rho: float) -> None:
        """Where the ascent stalls, halve the step and return to the best point (the paper's conditions 1 and 2)."""
        oscillates = self.rises <= rho * interval  # the paper has <; ties follow the official code
        stuck = ~self.halved & (self.best_loss <= self.checked_loss)
        self.halved = oscillates | stuck
        self.step = rowwise(self.halved, self.step / 2, self.step)
        self.point = rowwise(self.halved, self.best_point, self.point)
        self.gradient = rowwise(self.halved, self.best_gradient, self.gradient)
        self.checked_loss, self.rises = self.best_loss, torch.zeros_like(self.rises)

    def without_broken(self, x_adv: Tensor) -> "_Climb":
        """Write broken images to ``x_adv``; the state of the others."""
        if not self.broken.any():
            return self
        x_adv[self.row[self.broken]] = self.breaking[self.broken]
        return _Climb(**{field.name: getattr(self, field.name)[~self.broken] for field in fields(self)})
