"""A linear head written in a few prototypes: V = a_1 b_1 + ... + a_p b_p + R (ProtoNMF, 2023, Eq. 4 to 9).

V [N, D] are the weights of N classes, B [N, p, D] the prototypes of each, a [N, p] their coefficients and R [N, D] the
remainder, the residual prototype. The sum is exact for any prototypes.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Solver = Literal["lstsq", "cvxpy"]
Shares = Literal["sum", "paper", "abs", "energy"]

_ALIKE = 1e-4  # relative singular values below this are float32 noise
_CANCELLED = 0.1  # |sum a| below this fraction of sum |a|: Eq. 8 divides by almost 0


def unit_rows(basis: Float[Tensor, "*batch p D"]) -> Float[Tensor, "*batch p D"]:
    """Prototypes [..., p, D] scaled to length 1, however short; those of 0 stay 0.

    E diag(s) and diag(1/s) B have the same product for every s > 0, so prototypes and coefficients have no meaningful
    scale until one is fixed.
    """
    scaled = basis / _power_of_two(basis)
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled / length.masked_fill(length == 0, 1)


def _power_of_two(rows: Tensor) -> Tensor:
    """A power of two [..., 1] near the largest magnitude of each row, 1 for zeros: to divide by it changes no digit."""
    largest = rows.detach().abs().amax(-1, keepdim=True)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent.clamp(-126, 126))


def coefficients(
    head: Float[Tensor, "N D"], basis: Float[Tensor, "N p D"], solver: Solver = "lstsq"
) -> Float[Tensor, "N p"]:
    """a = argmin ‖V - a B‖ of each class, [N, p]; 0 for prototypes of length 0.

    Args:
        head: V, [N, D].
        basis: B, [N, p, D].
        solver: "lstsq": in closed form, the shortest of several solutions; "cvxpy": as in the paper.

    Source: Eq. 4.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}; got {solver!r}")
    if solver == "cvxpy":
        return torch.stack([_by_cvxpy(row, rows) for row, rows in zip(head, basis, strict=True)]).to(head)
    inverse = torch.linalg.pinv(basis.double(), rtol=_ALIKE)
    return (head.double()[:, None] @ inverse).squeeze(1).to(head.dtype)


def _by_cvxpy(head: Tensor, basis: Tensor) -> Tensor:
    import cvxpy

    alive = (basis.norm(dim=1) > 0).cpu()
    weights = torch.zeros(len(basis), dtype=torch.float64)
    if alive.any():
        unknown = cvxpy.Variable(int(alive.sum()))
        rows = basis.double().cpu()[alive].numpy()
        distance = cvxpy.sum_squares(unknown @ rows - head.double().cpu().numpy())  # type: ignore[attr-defined]
        cvxpy.Problem(cvxpy.Minimize(distance)).solve()
        weights[alive] = torch.from_numpy(unknown.value)
    return weights


def residual(
    head: Float[Tensor, "N D"], basis: Float[Tensor, "N p D"], weights: Float[Tensor, "N p"]
) -> Float[Tensor, "N D"]:
    """R = V - a B of each class, [N, D]; orthogonal to the prototypes if ``weights`` [N, p] are optimal.

    Source: Eq. 5.
    """
    return head - (weights[:, None] @ basis).squeeze(1)


def residual_map(features: Float[Tensor, "*places D"], rest: Float[Tensor, " D"]) -> Float[Tensor, "*places"]:
    """Coefficients of the residual prototype R [D] in features [..., D]: A R^T / ‖R‖², [...]; 0 if R is 0.

    It solves min_H ‖A - E B - H R‖ for every E, because R is orthogonal to B.

    Source: Eq. 6.
    """
    return features @ rest / rest.square().sum().clamp_min(1e-30)


def augmented(
    basis: Float[Tensor, "N p D"], weights: Float[Tensor, "N p"], rest: Float[Tensor, "N D"], shares: Shares = "sum"
) -> tuple[Float[Tensor, "N p D"], Bool[Tensor, " N"]]:
    """Prototypes that take over the residual, V = sum_i a_i b'_i, and the classes that needed other shares.

    b'_i = b_i + (w_i / a_i) R is exact for every w with sum 1 that is 0 where a_i is.

    Args:
        basis, weights, rest: B [N, p, D], a [N, p], R [N, D].
        shares: "sum": w_i = a_i / sum a, Eq. 8, which shifts all prototypes alike and grows without bound as the
            coefficients cancel: where |sum a| < 0.1 sum |a| or sum a < 0, when the prototypes would turn against the
            class, "abs" is taken instead. "paper": Eq. 8, and "abs" only where sum a = 0, which it divides by.
            "abs": w_i = |a_i| / sum |a|. "energy": w_i = a_i² / sum a².

    Returns:
        b' [N, p, D], and bool [N]: "abs" was taken for "sum" or "paper". If all coefficients are 0, b' is b, and V is
        not their sum.

    Source: Eq. 8; the others have the same sum.
    """
    if shares not in get_args(Shares):
        raise ValueError(f"shares must be one of {', '.join(get_args(Shares))}; got {shares!r}")
    total, absolute = weights.sum(1, keepdim=True), weights.abs().sum(1, keepdim=True)
    guarded = torch.zeros_like(total, dtype=torch.bool)
    least = torch.finfo(weights.dtype).tiny
    if shares == "energy":
        scale = _power_of_two(weights)
        scaled = weights / scale
        factor = scaled / scaled.square().sum(1, keepdim=True).clamp_min(least) / scale
    else:
        factor = weights.sign() / absolute.clamp_min(least)
        if shares in ("sum", "paper"):
            guarded = (total < _CANCELLED * absolute) if shares == "sum" else (total == 0) & (absolute > 0)
            factor = torch.where(guarded, factor, (weights != 0) / torch.where(guarded | (total == 0), 1.0, total))
    return basis + factor[..., None] * rest[:, None], guarded.squeeze(1)


def shift_of_augmentation(
    features: Float[Tensor, "N D"], basis: Float[Tensor, "p D"], moved: Float[Tensor, "p D"], salient: float = 0.1
) -> float:
    """How much augmentation changes the activation of prototypes, relative to the activation before.

    The paper expects |A (b'_k - b_k)^T| to be small beside A b_k^T in the salient places, where A b_k^T is largest; its
    absolute value for prototypes that may have any sign.

    Args:
        features: A, [N, D].
        basis, moved: b and b', [p, D].
        salient: the fraction of places that counts.

    Returns:
        The median over the salient places, mean over the prototypes.

    Source: ProtoNMF (2023), A.2.
    """
    before, change = features @ basis.mT, features @ (moved - basis).mT
    strongest, places = before.abs().topk(max(1, round(salient * len(features))), 0)
    ratio = change.gather(0, places).abs() / strongest.clamp_min(1e-30)
    return float(ratio.median(0).values.mean())


def similarity(basis: Float[Tensor, "N p D"]) -> float:
    """Mean cosine of two prototypes of the same class, for prototypes [N, p, D] with p > 1."""
    rows = unit_rows(basis)
    cosines, count = rows @ rows.mT, basis.shape[1]
    return float((cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)).mean() / (count * (count - 1)))


def matched_cosine(one: Float[Tensor, "p D"], other: Float[Tensor, "p D"]) -> float:
    """Mean cosine of prototypes [p, D] with those of another set under the best one-to-one matching.

    Source: Kuhn 1955 (the Hungarian method), by scipy.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = (unit_rows(one) @ unit_rows(other).mT).double().cpu().numpy()
    return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())


def unconstrained_encoding(
    features: Float[Tensor, "*places D"], basis: Float[Tensor, "p D"]
) -> Float[Tensor, "*places p"]:
    """E' = argmin ‖A - E' B‖ of any sign, [..., p], for features A [..., D] and prototypes B [p, D].

    Source: Eq. 9.
    """
    return features @ torch.linalg.pinv(basis.double(), rtol=_ALIKE).to(features)
