"""What flows from data to methods: a batch, and the arrays that batches are cut from."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trust_exp.data.config import DatasetInfo

__all__ = ["Arrays", "Batch", "DatasetInfo", "Split"]

Split = Literal["train", "test"]


class Batch(NamedTuple):
    """Samples of one step: image float32 [B, ...] in the data's own units (images: [0, 1]), label and index int64 [B].

    ``index`` is the position in the split, so that what is found out about a sample can be kept under its index.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no one needs of a batch


@dataclass(frozen=True)
class Arrays:
    """A whole split: images uint8 [N, C, H, W] or float32 [N, D], labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> "Arrays":
        """The samples at ``index`` (int64 [M]), in that order."""
        return Arrays(self.images[index], self.labels[index])


def as_floats(images: Tensor) -> Tensor:
    """Stored images as networks take them: uint8 becomes float32 in [0, 1], float32 stays as it is."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images
