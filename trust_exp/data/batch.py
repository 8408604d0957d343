"""Batches, and the arrays in memory that they are cut from."""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trust_exp.data.config import DatasetInfo

__all__ = ["AnyBatch", "Arrays", "Batch", "BoxBatch", "DatasetInfo", "DenseBatch", "MaskBatch", "Split"]

Split = Literal["train", "val", "test"]


class Batch(NamedTuple):
    """Samples of one step: image float32 [B, ...] in the data's own units (images: [0, 1]), label and index int64 [B].

    ``index`` is the position in the whole split, also where only a part is served, so that results for a sample can be
    stored under it. Held-out validation samples keep their position in the training split.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which batches do not need


class DenseBatch(NamedTuple):
    """Images with a class for every pixel, and maps of concepts.

    ``image`` float32 [B, C, H, W]; ``label`` int64 [B, H, W], a class or UNKNOWN; ``index`` int64 [B]; ``concepts``
    int64 [B, L, H, W], one map for each of ``info.layers``: a concept, NOTHING or UNKNOWN.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]
    concepts: Tensor


class BoxBatch(NamedTuple):
    """Images with boxes: each image uses the first few of M places.

    ``image`` float32 [B, C, H, W]; ``label`` int64 [B, M], the class in a box, UNKNOWN where there is none; ``index``
    int64 [B]; ``boxes`` float32 [B, M, 4] (left, top, right, bottom in pixels of the served image); ``difficult`` bool
    [B, M]: not counted in evaluation.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]
    boxes: Tensor
    difficult: Tensor


class MaskBatch(NamedTuple):
    """Images with a class, and where they are defective.

    ``image`` float32 [B, C, H, W]; ``label`` and ``index`` int64 [B]; ``mask`` bool [B, H, W], False everywhere for an
    image without a mask.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]
    mask: Tensor


AnyBatch = Batch | DenseBatch | BoxBatch | MaskBatch


@dataclass(frozen=True)
class Arrays:
    """Samples in memory: images uint8 [N, C, H, W] or float32 [N, D], and their labels.

    ``labels`` are int64 [N], or int8 or int16 [N, H, W] of dense data; ``concepts`` int8 or int16 [N, L, H, W];
    ``index`` int64 [N], positions in the whole split, by default 0 to N - 1.
    """

    images: Tensor
    labels: Tensor
    concepts: Tensor | None = None
    index: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def select(self, rows: Tensor) -> "Arrays":
        """The samples at ``rows`` (int64 [M]), in that order."""
        return type(self)(**{name: tensor.index_select(0, rows) for name, tensor in self._tensors().items()})

    def to(self, device: torch.device) -> "Arrays":
        """The same on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def batch(self) -> "Batch | DenseBatch":
        """All samples as one batch, images as floats."""
        image = as_floats(self.images)
        if self.labels.dim() == 1:
            return Batch(image, self.labels, self.index)
        concepts = (
            self.labels.new_empty(len(self), 0, *self.labels.shape[1:]) if self.concepts is None else self.concepts
        )
        return DenseBatch(image, self.labels.long(), self.index, concepts.long())

    def _tensors(self) -> dict[str, Tensor]:
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def as_floats(images: Tensor) -> Tensor:
    """Stored images as networks take them: uint8 becomes float32 in [0, 1], float32 stays as it is."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images
