"""Label smoothing (Szegedy et al. 2016): the loss as a plain function of tensors."""

from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, label: Tensor, share: float) -> Tensor:
    """Cross-entropy with a target that gives ``share`` of its mass to all classes alike; a scalar, the batch's mean.

    Args:
        logits: float [B, C].
        label: int64 [B].
        share: epsilon, in [0, 1).

    Source: Szegedy et al. 2016, sec. 7.
    """
    log_p = logits.log_softmax(1)
    right = log_p.gather(1, label[:, None]).squeeze(1)
    return -((1 - share) * right + share * log_p.mean(1)).mean()
