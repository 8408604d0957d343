"""Images with one bright square each, generated: where it lies is the label."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trust_exp.data.batch import Arrays, BoxBatch, DatasetInfo, Split, as_floats
from trust_exp.data.module import ArrayDataModule
from trust_exp.rng import keyed_generator


@dataclass(frozen=True)
class BoxArrays(Arrays):
    """Images in memory with boxes: labels int64 [N, 1], boxes float32 [N, 1, 4]."""

    boxes: Tensor = None  # type: ignore[assignment]

    def batch(self) -> BoxBatch:  # type: ignore[override]
        nothing = torch.zeros_like(self.labels, dtype=torch.bool)
        return BoxBatch(as_floats(self.images), self.labels, self.index, self.boxes, nothing)


class Squares(ArrayDataModule):
    """Grey images uint8 [N, 1, 16, 16] with a square of 6x6 pixels; 200 + 60 of them."""

    def describe(self) -> DatasetInfo:
        return DatasetInfo("squares", ("square",), (1, 16, 16), (0.0, 1.0), "detection")

    def load(self, split: Split) -> Arrays:
        generator, samples = keyed_generator("squares", split), {"train": 200, "test": 60}[split]
        corner = torch.randint(0, 11, (samples, 2), generator=generator)
        images = torch.randint(0, 60, (samples, 1, 16, 16), generator=generator, dtype=torch.uint8)
        for image, (left, top) in zip(images, corner.tolist(), strict=True):
            image[:, top : top + 6, left : left + 6] += 180
        boxes = torch.cat([corner, corner + 6], 1).float()[:, None]
        return BoxArrays(images, torch.zeros(samples, 1, dtype=torch.int64), boxes=boxes)
