"""The reader of images with masks of their defects, for anomaly detection."""

import os

import numpy as np
from PIL import Image
from torch import Tensor

from trust_exp.data.batch import MaskBatch
from trust_exp.data.readers.classes import ClassReader
from trust_exp.data.readers.images import read_mask


class MaskReader(ClassReader):
    """Images with a class, read as ``ClassReader`` does, and with the masks that ``masks`` of the index names.

    A mask is resized and cropped as its image is in evaluation, by the nearest pixel. Training images, which are
    changed, have none.
    """

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        image, label = super().__call__(row, uniform)
        name = os.fsdecode(self.arrays["masks"][row]) if uniform is None and "masks" in self.arrays else ""
        if not name:
            return image, label, np.zeros(self.image_size, np.uint8)
        mask = Image.fromarray(read_mask(self.folder / name).astype(np.uint8))
        return image, label, np.array(self.whole(mask, how=Image.Resampling.NEAREST))

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> MaskBatch:  # type: ignore[override]
        image, label, _ = super().batch(parts[:2], index)
        return MaskBatch(image, label, index, parts[2].bool())
