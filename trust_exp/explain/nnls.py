"""Non-negative least squares for very many rows and few columns: features encoded in prototypes."""

import torch
from torch import Tensor

_SLACK = 1e-10  # relative to the largest product of a row: smaller gradients count as 0
_TRIES = 3  # exchanges of all wrong entries that bring a row no further, before they go one by one
_ROUNDS = 1000  # far more than were ever needed


def encode(matrix: Tensor, basis: Tensor) -> Tensor:
    """The best E >= 0 for a given B: min ‖A - E B‖, [N, p], exact to rounding, in float64 within.

    Block principal pivoting: guess for all rows which entries are 0, solve for the others, and exchange the entries
    that violate the optimality conditions, until none does. Rows with the same zeros are solved together.

    Args:
        matrix: A, [N, D], of any sign.
        basis: B, [p, D], of any sign; rows of 0 get 0.

    Source: Kim & Park 2011, algorithm 2.
    """
    wide = basis.double()
    gram, target = wide @ wide.mT, matrix.double() @ wide.mT
    alive = gram.diagonal() > 0
    slack = _SLACK * target.abs().amax(1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    free = (target > 0) & alive
    fewest = torch.full_like(target[:, 0], len(gram) + 1)
    tries = torch.full_like(fewest, _TRIES)
    found = torch.zeros_like(target)
    left = torch.arange(len(target), device=target.device)
    for _ in range(_ROUNDS):
        found[left] = _solved(gram, target[left], free[left])
        gradient = found[left] @ gram - target[left]
        wrong = torch.where(free[left], found[left] < 0, (gradient < -slack[left]) & alive)
        many = wrong.sum(1)
        left, wrong, many = left[many > 0], wrong[many > 0], many[many > 0]
        if not len(left):
            break
        forward = many < fewest[left]
        fewest[left] = torch.minimum(many.to(fewest), fewest[left])
        tries[left] = torch.where(forward, _TRIES, tries[left] - 1)
        alone = torch.zeros_like(wrong)  # the last wrong entry: by it alone no state comes back (Murty's rule)
        numbers = torch.arange(1, wrong.shape[1] + 1, device=wrong.device)
        alone.scatter_(1, (wrong * numbers).argmax(1, keepdim=True), True)
        free[left] ^= torch.where((tries[left] >= 0)[:, None], wrong, alone)
    return found.clamp_min(0).to(matrix.dtype)


def _solved(gram: Tensor, target: Tensor, free: Tensor) -> Tensor:
    """Least squares in the free entries of each row, the shortest of several solutions; 0 in the others."""
    out = torch.zeros_like(target)
    chosen, which, counts = free.unique(dim=0, return_inverse=True, return_counts=True)
    for entries, rows in zip(chosen, which.argsort().split(counts.tolist()), strict=True):
        own = entries.nonzero().squeeze(1)
        if len(own):
            inverse = torch.linalg.pinv(gram[own][:, own], hermitian=True, rtol=1e-12)
            out[rows[:, None], own] = target[rows[:, None], own] @ inverse
    return out
