"""The reader of images with boxes, for detection."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trust_exp.data.batch import BoxBatch, DatasetInfo, as_floats
from trust_exp.data.config import UNKNOWN, AugmentConfig
from trust_exp.data.geometry import SHIFTED_NUMBERS, shifted_views, warp_boxes
from trust_exp.data.readers.images import open_rgb
from trust_exp.errors import UserError


class BoxReader:
    """Images with boxes, resized to ``image_size`` whatever their shape: a ``Reader``.

    In training the image is also scaled about its centre, shifted and mirrored (see ``shifted_views``), with black
    around it; a box whose centre leaves the image is dropped.

    Args:
        folder: that the paths are relative to.
        arrays: the index: ``paths``, ``boxes``, ``boxlabels``, ``difficult`` and ``boxcount``, see ``sources.voc``.
        info: of the data set.
        image_size: height and width of the served images.
        resize: must be None: a crop might cut off objects.
        augment: the changes of training images.

    Raises:
        UserError: if ``resize`` is given.
    """

    draws = SHIFTED_NUMBERS

    def __init__(
        self,
        folder: Path,
        arrays: Mapping[str, np.ndarray],
        info: DatasetInfo,
        image_size: tuple[int, int],
        resize: int | None,
        augment: AugmentConfig,
    ) -> None:
        if resize is not None:
            raise UserError(
                f"dataset.resize={resize} would crop images; dataset={info.name} has boxes, so omit dataset.resize"
            )
        self.folder, self.arrays, self.size, self.augment = folder, arrays, image_size, augment
        self.ends = arrays["boxcount"].cumsum()
        self.places = int(arrays["boxcount"].max(initial=0))

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The sample in ``row``, changed by ``uniform`` (float32 [draws]), unchanged if that is None.

        Returns:
            image uint8 [3, H, W]; boxes float32 [M, 4] in pixels of it; labels int64 [M]; difficult bool [M]: of the M
            places, as many as the image with the most boxes needs, the first are used; the others are UNKNOWN.

        Raises:
            UserError: if the image cannot be read.
        """
        image = open_rgb(self.folder / os.fsdecode(self.arrays["paths"][row]))
        view = self._view(image, uniform)
        return self._pixels(image, view, uniform is not None), *self._objects(row, view)

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> BoxBatch:
        """Stacked parts of samples as a batch."""
        image, boxes, label, difficult = parts
        return BoxBatch(as_floats(image), label, index, boxes, difficult)

    def _view(self, image: Image.Image, uniform: np.ndarray | None) -> Tensor:
        sizes = torch.tensor([[image.height, image.width]])
        if uniform is None:
            return shifted_views(torch.zeros(1, SHIFTED_NUMBERS), sizes, self.size)
        augment = self.augment
        return shifted_views(
            torch.from_numpy(uniform)[None],
            sizes,
            self.size,
            scale=augment.scale or (1, 1),
            shift=augment.shift,
            flip=augment.flip,
        )

    def _pixels(self, image: Image.Image, view: Tensor, training: bool) -> np.ndarray:
        size = self.size[1], self.size[0]
        if training:
            image, view = _shrunk(image, view[0])
            image = image.transform(
                size, Image.Transform.AFFINE, view.flatten().tolist(), resample=Image.Resampling.BILINEAR
            )
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)

    def _objects(self, row: int, view: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays, end = self.arrays, int(self.ends[row])
        own = slice(end - int(arrays["boxcount"][row]), end)
        warped, inside = warp_boxes(torch.from_numpy(np.array(arrays["boxes"][own]))[None], view, self.size)
        kept = inside[0].numpy()
        used = slice(0, int(kept.sum()))
        boxes = np.zeros((self.places, 4), np.float32)
        labels = np.full(self.places, UNKNOWN, np.int64)
        difficult = np.zeros(self.places, bool)
        boxes[used] = warped[0].numpy()[kept]
        labels[used] = arrays["boxlabels"][own][kept]
        difficult[used] = arrays["difficult"][own][kept]
        return boxes, labels, difficult


def _shrunk(image: Image.Image, view: Tensor) -> tuple[Image.Image, Tensor]:
    """The image, shrunk to the scale of the view, and the view of that: PIL smooths only when it resizes."""
    before = torch.tensor(image.size)
    after = (before / view[:, :2].diagonal().abs()).round().long().clamp(min=1).minimum(before)
    if torch.equal(before, after):
        return image, view
    smaller = image.resize((int(after[0]), int(after[1])), Image.Resampling.BILINEAR)
    return smaller, view * (after / before)[:, None]
