"""Cached features of several augmented copies of each sample."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class FeatureCache:
    """Features [M, N, K] of M copies of N samples, and the samples' labels and indices.

    A copy may lack samples, because an epoch drops its last, incomplete batch; ``close_gaps`` takes them from another
    copy.

    Args:
        copies: M.
        samples: N.
        device: of the cached features.
    """

    def __init__(self, copies: int, samples: int, device: torch.device | str = "cpu") -> None:
        self.copies, self.samples, self.device = copies, samples, torch.device(device)
        self.features = torch.empty(0)
        self.known = torch.zeros(copies, samples, dtype=torch.bool)
        self.label = torch.zeros(samples, dtype=torch.int64, device=device)
        self.index = torch.zeros(samples, dtype=torch.int64, device=device)

    def put(
        self,
        copy: int,
        rows: Int64[Tensor, " B"],
        features: Float[Tensor, "B K"],
        label: Int64[Tensor, " B"],
        index: Int64[Tensor, " B"],
    ) -> None:
        """Store features [B, K] of the samples at ``rows`` (int64 [B], on the CPU) in one of the copies."""
        if not self.features.numel():
            size = (self.copies, self.samples, features.shape[1])
            self.features = torch.zeros(size, dtype=features.dtype, device=self.device)
        here = rows.to(self.device)
        self.features[copy, here] = features.to(self.device)
        self.label[here], self.index[here] = label.to(self.device), index.to(self.device)
        self.known[copy, rows] = True

    def close_gaps(self) -> None:
        """Fill each copy's gaps with the next copy that has the sample; ``missing`` samples stay empty."""
        known = self.known.clone()
        for copy in range(self.copies):
            for other in ((copy + step) % self.copies for step in range(1, self.copies)):
                rows = (~self.known[copy] & known[other]).nonzero().flatten()
                self.features[copy, rows.to(self.device)] = self.features[other, rows.to(self.device)]
                self.known[copy, rows] = True

    def missing(self) -> Int64[Tensor, " L"]:
        """The samples that no copy has, int64 [L]."""
        return (~self.known.any(0)).nonzero().flatten()

    def take(
        self, epoch: int, rows: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B K"], Int64[Tensor, " B"], Int64[Tensor, " B"]]:
        """Features [B, K], labels and indices [B] of some samples; the copies take turns, one an epoch."""
        here = rows.to(self.device)
        return self.features[epoch % self.copies, here], self.label[here], self.index[here]
