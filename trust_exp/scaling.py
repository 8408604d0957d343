"""Powers of two to divide by, so that squares neither overflow nor vanish."""

import torch
from torch import Tensor


def power_of_two(rows: Tensor) -> Tensor:
    """A power of two [..., 1] near the largest magnitude of each row [..., n], 1 for zeros; a constant in gradients.

    To divide by it changes no digit.
    """
    largest = rows.detach().abs().amax(-1, keepdim=True)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent.clamp(-126, 126))
