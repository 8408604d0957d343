"""Attacks of adversarial training: projected gradient ascent in a few steps of fixed size.

Every gradient costs one forward and one backward pass; what an iterate scores comes out of the pass that its gradient
needs anyway. Nothing is skipped: images that are misclassified already are attacked as well.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.apgd import LOSSES, check_classes
from trust_exp.attacks.ball import Ball, Domain, Norm, rowwise
from trust_exp.attacks.mode import attack_mode
from trust_exp.errors import check_choice, check_range
from trust_exp.rng import keyed_generator

Keep = Literal["best", "last"]
UntargetedLoss = Literal["ce", "dlr"]

_TRADES_NOISE = 0.001


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    norm: Norm = "L2",
    step_size: float,
    steps: int,
    random_start: bool = False,
    keep: Keep = "best",
    score_last: bool = True,
    loss: UntargetedLoss = "ce",
    domain: Domain = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Adversarial examples by projected gradient ascent: x_{t+1} = P(x_t + step_size * steepest direction).

    The released code of subset adversarial training is ``random_start=False, keep="best", score_last=False``: the best
    of x_0 .. x_{steps-1}, the clean image among them. ``steps * step_size`` may be below epsilon: then the attack ends
    before the boundary (10 steps of 0.8/255 and the last unscored reach 7.2/255).

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: clean images or points, [B, ...], float32 or float64, inside the domain; B may be 0.
        y: labels, [B], int64.
        epsilon: radius in the units of x, finite, >= 0; a tensor [B] gives every image its own.
        norm: "L2" (gradients scaled to norm 1) or "Linf" (their signs).
        step_size: in the units of x, > 0.
        steps: gradient steps, >= 1.
        random_start: start at :meth:`Ball.sample_inside` instead of x.
        keep: "best": the iterate of highest loss, the first of equals; "last": x_steps, whatever its loss.
        score_last: whether ``keep="best"`` may choose x_steps too, at the price of one more forward pass;
            ``keep="last"`` scores nothing and does not ask.
        loss: "ce", in a form that does not saturate and has the same best iterate, or "dlr", which needs 3 classes.
        domain: range of the data, to which iterates are clamped after the ball; None: no clamping.
        generator: source of the random start, best on the CPU; None: one with a fixed seed. The global state is never
            used.

    Returns:
        x_adv, shape and dtype of x; ‖x_adv − x‖ <= epsilon and inside the domain. An image's result depends on the
        others only through its place in the random start.

    Raises:
        ValueError: if an argument is out of range, or the model has too few classes for the loss.

    Source: Madry 2018; Losch 2024, sec. 3.3.1, and the released code for the choice of the iterate.
    """
    check_choice("keep", keep, get_args(Keep))
    check_choice("loss", loss, get_args(UntargetedLoss))
    _check_steps(step_size, steps)
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"y must be int64 of shape [{len(x)}]; got {y.dtype} {list(y.shape)}")
    with attack_mode(model):
        ball, label = Ball.around(x, epsilon, norm=norm, domain=domain), y.clone()
        point = ball.sample_inside(generator or keyed_generator("pgd")) if random_start else ball.center.clone()
        if len(point) == 0:
            return point

        def objective(logits: Tensor) -> Tensor:
            check_classes(loss, logits.shape[1])
            return LOSSES[loss](logits, label)

        best, best_loss = point, point.new_full((len(point),), -torch.inf)
        for _ in range(steps):
            value, gradient = _value_and_gradient(model, objective, point)
            if keep == "best":
                better = value > best_loss
                best, best_loss = rowwise(better, point, best), torch.where(better, value, best_loss)
            point = ball.project(point + step_size * ball.steepest(gradient))
        if keep == "last":
            return point
        if score_last:
            with torch.no_grad():
                best = rowwise(objective(model(point).to(point.dtype)) > best_loss, point, best)
        return best


def fgsm_rs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    norm: Norm = "L2",
    step_size: float,
    domain: Domain = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step from a random start: :func:`pgd` with ``steps=1``, whose last iterate is taken.

    The usual step size is 1.25 epsilon. The released code of subset adversarial training draws the direction of this
    attack's start from a cube; here it is Gaussian, as in :func:`pgd`.

    Source: Wong, Rice & Kolter 2020; Losch 2024, sec. 3.3.5.
    """
    return pgd(
        model,
        x,
        y,
        epsilon,
        norm=norm,
        step_size=step_size,
        steps=1,
        random_start=True,
        keep="last",
        domain=domain,
        generator=generator,
    )


def trades_attack(
    model: nn.Module,
    x: Tensor,
    epsilon: float | Tensor,
    *,
    norm: Norm = "L2",
    step_size: float,
    steps: int,
    domain: Domain = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """The inner attack of TRADES: the last of ``steps`` iterates that raise KL(f(x) ‖ f(x_adv)); it needs no labels.

    Starts at x + 0.001 N(0, 1), as the divergence has no gradient at x. An image that has none all the same, as where
    the softmax saturates, goes on in the direction of its noise; in the authors' code for Linf it stays.

    Args: as in :func:`pgd`; the authors step 2 epsilon / steps for L2. One forward pass more than ``steps``.

    Returns:
        x_adv, shape and dtype of x; ‖x_adv − x‖ <= epsilon and inside the domain.

    Raises:
        ValueError: if an argument is out of range.

    Source: Zhang 2019, Algorithm 1.
    """
    _check_steps(step_size, steps)
    with attack_mode(model):
        ball = Ball.around(x, epsilon, norm=norm, domain=domain)
        if len(ball.center) == 0:
            return ball.center
        with torch.no_grad():
            clean = model(ball.center).to(ball.center.dtype).log_softmax(1)

        def divergence(logits: Tensor) -> Tensor:
            return F.kl_div(logits.log_softmax(1), clean, reduction="none", log_target=True).sum(1)

        generator = generator or keyed_generator("trades")
        noise = torch.randn(ball.center.shape, generator=generator, device=generator.device).to(ball.center)
        point = ball.project(ball.center + _TRADES_NOISE * noise)
        for _ in range(steps):
            _, gradient = _value_and_gradient(model, divergence, point)
            direction = rowwise(gradient.flatten(1).any(1), gradient, point - ball.center)
            point = ball.project(point + step_size * ball.steepest(direction))
        return point


def _check_steps(step_size: float, steps: int) -> None:
    check_range("steps", steps, least=1)
    if not 0 < step_size < torch.inf:
        raise ValueError(f"step_size must be positive and finite; got {step_size}")


def _value_and_gradient(
    model: nn.Module, objective: Callable[[Tensor], Tensor], point: Tensor
) -> tuple[Tensor, Tensor]:
    """Objective of the logits, [B], and its gradient at ``point``; in the dtype of the images, also under autocast."""
    point = point.detach().requires_grad_()
    value = objective(model(point).to(point.dtype))
    (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient
