"""Non-negative least squares for very many rows and few columns: features encoded in prototypes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

_SLACK = 1e-12  # relative to a row's size: smaller gradients count as 0
_STEEP = 1e4  # condition number from which on the normal equations, which square it, lose too much
_TRIES = 3  # exchanges of all wrong entries that bring a row no further, before they go one by one
_ROUNDS = 1000  # far more than were ever needed


def encode(matrix: Float[Tensor, "N D"], basis: Float[Tensor, "p D"]) -> Float[Tensor, "N p"]:
    """The best E >= 0 for a given B: min ‖A - E B‖, [N, p], exact to rounding, in float64 within.

    Block principal pivoting: guess for all rows which entries are 0, solve for the others, and exchange the entries
    that violate the optimality conditions, until none does. Rows with the same zeros are solved together: by the normal
    equations, or by a singular value decomposition where prototypes are nearly equal. At the end the conditions are
    checked by each row's residual; a row that misses them is solved alone, by an active-set method.

    Args:
        matrix: A, [N, D], of any sign.
        basis: B, [p, D], of any sign; rows of 0 get 0.

    Raises:
        ValueError: if an entry is not finite.
        ArithmeticError: if the optimality conditions of a row cannot be met in float64.

    Source: Kim & Park 2011, algorithm 2; Lawson & Hanson 1974, algorithm NNLS (23.10), for the other rows.
    """
    if not (matrix.isfinite().all() and basis.isfinite().all()):
        raise ValueError("features and prototypes must be finite")
    wide = basis.double()
    lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    alive = lengths.squeeze(1) > 0
    lengths = lengths.masked_fill(lengths == 0, 1)
    # What lies outside the span of B changes no solution: p numbers a row are left, and B's condition stays as it is.
    frame, small = torch.linalg.qr((wide / lengths).T)
    small, rows = small.T, matrix.double() @ frame
    found = _pivoted(small, rows, alive)
    missed = _missed(small, rows, found).nonzero().squeeze(1)
    if len(missed):
        parts, alone = small.cpu().numpy(), rows[missed].cpu().numpy()
        found[missed] = torch.from_numpy(np.stack([_active_set(parts, row) for row in alone])).to(found)
        if left := int(_missed(small, rows[missed], found[missed]).sum()):
            raise ArithmeticError(f"{left} of {len(rows)} rows have no optimum that float64 can tell")
    return (found / lengths.T).to(matrix.dtype)


def _missed(small: Tensor, rows: Tensor, found: Tensor) -> Tensor:
    """Rows that violate an optimality condition: zero gradient where an entry is positive, else none below zero."""
    gradient = (found @ small - rows) @ small.T
    slack = _SLACK * (torch.linalg.vector_norm(rows, dim=1) + found.sum(1)).unsqueeze(1)
    return ~((gradient >= -slack) & ((gradient <= slack) | (found == 0))).all(1)


def _pivoted(small: Tensor, rows: Tensor, alive: Tensor) -> Tensor:
    gram, target = small @ small.T, rows @ small.T
    steep = bool(alive.any()) and not torch.linalg.cond(small[alive]) < _STEEP

    def inverse(own: Tensor) -> Tensor:
        """Of the chosen rows of B, [D, own]."""
        if steep:
            return torch.linalg.pinv(small[own], rtol=1e-13)
        return small[own].T @ torch.linalg.pinv(gram[own][:, own], hermitian=True, rtol=1e-12)

    slack = _SLACK * target.abs().amax(1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    free = (target > 0) & alive
    fewest = torch.full_like(target[:, 0], len(gram) + 1)
    tries = torch.full_like(fewest, _TRIES)
    found = torch.zeros_like(target)
    left = torch.arange(len(target), device=target.device)
    for _ in range(_ROUNDS):
        found[left] = _solved(rows[left], free[left], inverse)
        gradient = (found[left] @ small - rows[left]) @ small.T
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
    return found.clamp_min(0)


def _solved(rows: Tensor, free: Tensor, inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """Least squares in the free entries of each row, the shortest of several solutions; 0 in the others."""
    out = torch.zeros_like(free, dtype=rows.dtype)
    chosen, which, counts = free.unique(dim=0, return_inverse=True, return_counts=True)
    for entries, members in zip(chosen, which.argsort().split(counts.tolist()), strict=True):
        own = entries.nonzero().squeeze(1)
        if len(own):
            out[members[:, None], own] = rows[members] @ inverse(own)
    return out


def _active_set(small: npt.NDArray[np.float64], row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One row; entries become positive one by one, and leave where they would become negative."""
    found = np.zeros(len(small))
    positive = np.zeros(len(small), bool)
    for _ in range(_ROUNDS):
        gradient = (row - found @ small) @ small.T
        slack = _SLACK / 2 * (np.linalg.norm(row) + found.sum())
        gradient[positive] = 0
        while True:
            entry = gradient.argmax()
            if gradient[entry] <= slack:
                return found
            positive[entry] = True
            best = _least_squares(small, row, positive)
            if best[entry] > 0:
                break
            positive[entry], gradient[entry] = False, 0  # it is a combination of the others up to rounding
        while (best[positive] <= 0).any():
            leaving = positive & (best <= 0)
            step = (found[leaving] / (found[leaving] - best[leaving])).min()
            found += step * (best - found)
            positive &= found > 1e-14 * found.max()
            found[~positive] = 0
            best = _least_squares(small, row, positive)
        found = best
    return found


def _least_squares(
    small: npt.NDArray[np.float64], row: npt.NDArray[np.float64], entries: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    out = np.zeros(len(small))
    out[entries] = np.linalg.lstsq(small[entries].T, row, rcond=None)[0]
    return out
