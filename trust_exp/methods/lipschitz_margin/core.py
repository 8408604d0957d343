"""Losses that make margins with a Lipschitz constant: CLL, GloRo and LMT.

``pairwise`` is K_ij, the Lipschitz constant of the logit difference f_i - f_j: [C, C], symmetric, zero on the diagonal.
Logits are [B, C], labels int64 [B], losses means over the batch.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


def calibrated_scale(epsilon: float, p: float) -> float:
    """Scale of a logistic distribution that has probability ``p`` at ``-epsilon`` and ``1 - p`` at ``+epsilon``.

    Args:
        epsilon: half the margin width, in input units (pixels in [0, 1]); positive.
        p: probability on the wrong side of the margin, in (0, 0.5); small p means little slack.

    Returns:
        sigma > 0; the Lipschitz constant of the calibrated logistic is ``1 / sigma``.

    Raises:
        ValueError: if epsilon or p is out of range.

    Source: Losch 2024, Eq. 4.5; the logit is written with log1p, as p may be 1e-12.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive; got {epsilon}")
    if not 0 < p < 0.5:
        raise ValueError(f"p must be in (0, 0.5); got {p}")
    return epsilon / (math.log1p(-p) - math.log(p))


def cll_loss(
    logits: Float[Tensor, "B C"],
    label: Int64[Tensor, " B"],
    pairwise: Float[Tensor, "C C"],
    scale: float,
    offset: float,
    *,
    one_sided: bool = False,
) -> Float[Tensor, ""]:
    """Calibrated Lipschitz-margin loss: cross-entropy of logit differences measured in input units.

    Args:
        pairwise: K_ij; pass it detached for the loss of the paper.
        scale: sigma of ``calibrated_scale``, in input units.
        offset: margin offset delta, in input units; the paper's is epsilon.
        one_sided: shift the wrong classes only; with two classes this equals ``cll_binary_loss``, whereas the two-sided
            loss has probability 1/2 at twice the offset.

    Source: Losch 2024, Eq. 4.6 and 4.7. Softmax ignores a common shift, so the offset is applied to the label only.
    """
    constants = pairwise + torch.eye(len(pairwise), dtype=pairwise.dtype, device=pairwise.device)  # K_yy := 1
    distance = (logits - logits.gather(1, label[:, None])) / constants[label].clamp_min(TINY)
    return _calibrated_cross_entropy(distance, label, scale, offset if one_sided else 2 * offset)


def cll_loss_per_logit(
    logits: Float[Tensor, "B C"],
    label: Int64[Tensor, " B"],
    constants: Float[Tensor, " C"],
    scale: float,
    offset: float,
    *,
    one_sided: bool = False,
) -> Float[Tensor, ""]:
    """CLL with one constant per logit, K_i of shape [C], instead of one per pair.

    The released configurations of 6C2F, 8C2F and two moons use this; it is not the paper's Eq. 4.7.
    """
    return _calibrated_cross_entropy(
        logits / constants.clamp_min(TINY), label, scale, offset if one_sided else 2 * offset
    )


def cll_binary_loss(
    output: Float[Tensor, " B"], sign: Shaped[Tensor, " B"], lipschitz: Float[Tensor, ""], scale: float, offset: float
) -> Float[Tensor, ""]:
    """Calibrated logistic loss of a scalar classifier.

    Args:
        output: f(x), [B]; its sign is the prediction.
        sign: the class as -1 or +1, [B].
        lipschitz: the Lipschitz constant of f, []; pass it detached for the loss of the paper.

    Source: Losch 2024, Eq. 4.3 and 4.4.
    """
    return F.softplus((offset - sign * output / lipschitz.clamp_min(TINY)) / scale).mean()


def gloro_loss(
    logits: Float[Tensor, "B C"], label: Int64[Tensor, " B"], pairwise: Float[Tensor, "C C"], epsilon: float
) -> Float[Tensor, ""]:
    """Cross-entropy with an extra class, "not robust", whose logit is the largest a rival can reach within epsilon.

    Source: Leino et al. 2021: y_bot = max over j != i of f_j + epsilon K_ij, where i is the predicted class.
    """
    predicted = logits.argmax(1)
    rivals = logits + epsilon * pairwise[predicted]
    rivals = rivals.scatter(1, predicted[:, None], -math.inf)
    return F.cross_entropy(torch.cat([logits, rivals.amax(1, keepdim=True)], 1), label)


def lmt_loss(
    logits: Float[Tensor, "B C"], label: Int64[Tensor, " B"], lipschitz: Float[Tensor, ""], epsilon: float
) -> Float[Tensor, ""]:
    """Cross-entropy with sqrt(2) K epsilon added to every wrong logit, where K is the network's constant.

    Source: Tsuzuku et al. 2018 (Lipschitz-margin training).
    """
    shift = math.sqrt(2) * lipschitz * epsilon
    return F.cross_entropy(logits - shift * _one_hot(label, logits), label)


TINY = 1e-12  # two classes may have equal weights, and then distance 0 / TINY = 0


def _calibrated_cross_entropy(distance: Tensor, label: Tensor, scale: float, shift: float) -> Tensor:
    return F.cross_entropy((distance - shift * _one_hot(label, distance)) / scale, label)


def _one_hot(label: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(label, like.shape[1]).to(like.dtype)  # an integer tensor times a float would be float32
