"""Attacks for adversarial training: projected gradient ascent in a few steps of fixed size.

A gradient costs one forward and one backward pass; the forward pass also gives the iterate's loss. Images that are
already misclassified are attacked as well.
"""

from collections.abc import Callable
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.arguments import Threat, check_per_image
from trust_exp.attacks.auto_pgd import LOSSES, check_classes
from trust_exp.attacks.ball import Ball, rowwise
from trust_exp.attacks.mode import attack_mode
from trust_exp.errors import check_choice, check_range
from trust_exp.rng import keyed_generator

Keep = Literal["best", "last"]
UntargetedLoss = Literal["ce", "dlr"]

_TRADES_NOISE = 0.001


def pgd(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    step_size: float,
    steps: int,
    random_start: bool = False,
    keep: Keep = "best",
    score_last: bool = True,
    loss: UntargetedLoss = "ce",
    generator: torch.Generator | None = None,
    **threat: Unpack[Threat],
) -> Float[Tensor, "B *shape"]:
    """Adversarial examples by projected gradient ascent: x_{t+1} = P(x_t + step_size * steepest direction).

    The released code of subset adversarial training uses ``random_start=False, keep="best", score_last=False``: the
    best of x_0 .. x_{steps-1}, clean image included. With ``steps * step_size`` below epsilon the attack ends before
    the boundary (10 steps of 0.8/255, the last one unscored, reach 7.2/255).

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: clean images or points, [B, ...], float32 or float64, inside the domain; B may be 0.
        y: labels, [B], int64.
        epsilon: radius in the units of x, finite, >= 0; a tensor [B] gives every image its own.
        step_size: in the units of x, > 0.
        steps: gradient steps, >= 1.
        random_start: start at :meth:`Ball.sample_inside` instead of x.
        keep: "best": the iterate of highest loss, the first among equals; "last": x_steps, whatever its loss.
        score_last: whether ``keep="best"`` may also choose x_steps, which costs one more forward pass; ignored with
            ``keep="last"``.
        loss: "ce", in a form that does not saturate and has the same best iterate, or "dlr", which needs 3 classes.
        generator: source of the random start, best on the CPU; None: one with a fixed seed. The global random state is
            never used.
        threat: ``norm`` ("L2" if not given) and ``domain``, see :class:`Threat`.

    Returns:
        x_adv, shape and dtype of x; ‖x_adv − x‖ <= epsilon and inside the domain. The other images matter only through
        an image's place in the random start.

    Raises:
        ValueError: if an argument is out of range, or the model has too few classes for the loss.

    Source: Madry 2018; Losch 2024, sec. 3.3.1, and the released code for the choice of the iterate.
    """
    check_choice("keep", keep, get_args(Keep))
    check_choice("loss", loss, get_args(UntargetedLoss))
    _check_steps(step_size, steps)
    check_per_image("y", y, x, torch.int64)
    with attack_mode(model):
        ball, label = Ball.around(x, epsilon, **threat), y.clone()
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
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    step_size: float,
    generator: torch.Generator | None = None,
    **threat: Unpack[Threat],
) -> Float[Tensor, "B *shape"]:
    """One step from a random start: :func:`pgd` with ``steps=1`` and ``keep="last"``.

    The usual step size is 1.25 epsilon. For L2 the direction of the start is Gaussian, as in :func:`pgd`; the released
    code of subset adversarial training draws it from a cube.

    Source: Wong, Rice & Kolter 2020; Losch 2024, sec. 3.3.5.
    """
    return pgd(
        model,
        x,
        y,
        epsilon,
        step_size=step_size,
        steps=1,
        random_start=True,
        keep="last",
        generator=generator,
        **threat,
    )


def trades_attack(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    epsilon: float | Float[Tensor, " B"],
    *,
    step_size: float,
    steps: int,
    generator: torch.Generator | None = None,
    **threat: Unpack[Threat],
) -> Float[Tensor, "B *shape"]:
    """The inner attack of TRADES: ``steps`` of ascent on KL(f(x) ‖ f(x_adv)), the last iterate; it needs no labels.

    It starts at x + 0.001 N(0, 1), as the divergence has no gradient at x. An image that has none there either, because
    the softmax saturates, moves on in the direction of its noise; in the authors' Linf code it stays.

    Args: as in :func:`pgd`; the authors use a step size of 2 epsilon / steps for L2. One forward pass more.

    Returns:
        x_adv, shape and dtype of x; ‖x_adv − x‖ <= epsilon and inside the domain.

    Raises:
        ValueError: if an argument is out of range.

    Source: Zhang 2019, Algorithm 1.
    """
    _check_steps(step_size, steps)
    with attack_mode(model):
        ball = Ball.around(x, epsilon, **threat)
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
    """Objective of the logits, [B], and its gradient at ``point``, in the dtype of the images even under autocast."""
    point = point.detach().requires_grad_()
    value = objective(model(point).to(point.dtype))
    (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient
