"""Which class a network says."""

from torch import Tensor


def predicted(logits: Tensor) -> Tensor:
    """Class of the largest logit, int64 [B], for logits [B, C]; -1, which is no class, where a logit is NaN.

    ``argmax`` takes NaN for the largest number, so that logits that are all NaN would be of class 0.
    """
    top = logits.argmax(1, keepdim=True)
    return top.masked_fill(logits.gather(1, top).isnan(), -1).squeeze(1)
