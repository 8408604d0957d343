"""Certified radii from a Lipschitz bound, and a search for how tight the bound is."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The search subtracts this many ulps of the largest logit, so that rounding never makes a close pair look steep.
ROUNDING_UNITS = 16


def certified_radius(
    logits: Float[Tensor, "B C"], pairwise: Float[Tensor, "C C"], *, allowance: float | Float[Tensor, "#B #C"] = 0.0
) -> Float[Tensor, " B"]:
    """L2 radius around each input within which no class can overtake the predicted one.

    Args:
        logits: [B, C]; the largest is the prediction.
        pairwise: [C, C], Lipschitz constants of the logit differences, input normalisation included.
        allowance: bound on the error of each margin, in logit units, subtracted from it; a number or broadcastable to
            [B, C].

    Returns:
        [B] in the dtype of the logits, >= 0; 0 for ties, for margins that are not finite, and where a constant is
        negative or no number; inf where no other class has a positive constant.

    Source: Losch 2024, Eq. 4.8, here over all classes: the equation tests only the runner-up, but a class with a
        lower logit and a larger constant may overtake first.
    """
    top = logits.argmax(1, keepdim=True)
    margins = (logits.gather(1, top) - logits - allowance).clamp_min(0)
    margins = margins.where(margins.isfinite(), 0)
    constants = pairwise[top.squeeze(1)]
    reachable = constants > 0
    never = torch.zeros_like(margins).masked_fill((margins > 0) & (constants == 0), torch.inf)
    radii = torch.where(reachable, margins / constants.masked_fill(~reachable, 1), never)
    return radii.scatter(1, top, torch.inf).amin(1).to(logits.dtype)


def tightness_search(
    model: nn.Module,
    x1: Float[Tensor, "P *shape"],
    x2: Float[Tensor, "P *shape"],
    *,
    domain: tuple[float, float] | None,
    steps: int = 1000,
    lr: float = 3e-4,
    pairwise: Float[Tensor, "C C"] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Float[Tensor, " P"]:
    """Lower bound on the Lipschitz constant of the logit differences, by gradient ascent on pairs of inputs.

    Adam maximises max_i |(f_j - f_i)(x1) - (f_j - f_i)(x2)| / ||x1 - x2|| over both inputs of all pairs at once, with
    j the class predicted at x1 in that step. The model stays in its mode; no parameter gets a gradient.

    Args:
        model: [P, ...] to logits [P, C].
        x1, x2: [P, ...], starting points; not changed.
        domain: smallest and largest value of an input, or None.
        steps: ascent steps.
        lr: learning rate of Adam, in input units.
        pairwise: [C, C] constants that divide each difference; the result is then a fraction of the bound.
        progress: wraps the range of steps, for a progress bar.

    Returns:
        [P], largest quotient of each pair, minus an allowance for rounding; at most the Lipschitz constant.

    Source: Losch 2024, Eq. 4.9 and 4.10.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pairs = torch.stack((x1, x2)).clone().requires_grad_()
        scale = None if pairwise is None else pairwise.clone()
        optimizer = torch.optim.Adam([pairs], lr=lr, maximize=True)
        best = pairs.new_zeros(pairs.shape[1])
        for _ in progress(range(steps)):
            quotient = _quotient(model, pairs, scale)
            best = torch.maximum(best, quotient.detach())
            (pairs.grad,) = torch.autograd.grad(quotient.sum(), pairs)
            optimizer.step()
            if domain is not None:
                pairs.data.clamp_(*domain)
        with torch.no_grad():
            return torch.maximum(best, _quotient(model, pairs, scale))


def _quotient(model: nn.Module, pairs: Tensor, pairwise: Tensor | None) -> Tensor:
    """Largest change of a margin divided by the distance of the inputs: [2, P, ...] to [P]."""
    logits = model(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
    top = logits[0].argmax(1, keepdim=True)
    change = logits[0] - logits[1]
    change = (change.gather(1, top) - change).abs()
    rounding = ROUNDING_UNITS * torch.finfo(logits.dtype).eps * logits.detach().abs().amax((0, 2))
    change = (change - rounding.unsqueeze(1)).clamp_min(0)
    if pairwise is not None:
        constants = pairwise[top.squeeze(1)]
        change = change / constants.masked_fill(constants == 0, torch.inf)
    distance = torch.linalg.vector_norm((pairs[0] - pairs[1]).flatten(1), dim=1)
    return change.amax(1) / distance.clamp_min(torch.finfo(distance.dtype).tiny)
