"""The reader of images with a class, for classification."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trust_exp.data.batch import Batch, as_floats
from trust_exp.data.config import AugmentConfig
from trust_exp.data.copies import changed_copy
from trust_exp.data.geometry import RESIZED_CROP_NUMBERS, resized_crop_boxes
from trust_exp.data.readers.images import open_rgb
from trust_exp.errors import UserError


def random_box(image: Image.Image, uniform: np.ndarray, augment: AugmentConfig) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random resized crop, by ``uniform`` (float32 [RESIZED_CROP_NUMBERS])."""
    numbers, size = torch.from_numpy(uniform)[None], torch.tensor([[image.height, image.width]])
    left, top, width, height = resized_crop_boxes(numbers, size, augment.resized_crop or (1, 1), augment.ratio)[
        0
    ].tolist()
    return left, top, width, height


class ClassReader:
    """Images with one class each, from ``paths`` and ``labels`` of the index, and ``boxes`` for ``crop``.

    Where the index has ``orientation``, an image is first turned upright.

    Evaluation: torchvision's Resize and CenterCrop of PIL images, to the last bit. Training: its RandomResizedCrop if
    ``augment.resized_crop`` is set, else a crop anywhere in the image as evaluation resizes it; then the flip. Numbers
    beyond ``draws`` are those of a ``changed_copy``, which then replaces the image.

    Args:
        folder: that the paths are relative to.
        arrays: the index: ``paths`` bytes [N], ``labels`` [N]; ``boxes`` int32 [N, 4]: left, top, right, bottom;
            ``orientation`` uint8 [N], see ``images.TURNS``.
        classes: int64 [C], the number that is served for each class of the index.
        image_size: height and width of the served images.
        resize: shorter side before the crop; None: the least that covers ``image_size``.
        augment: its crop and flip are done here.
        crop: first crop images to their boxes.
        stretch: resize whole images to ``image_size``, whatever their shape.

    Raises:
        UserError: if ``resize`` does not cover ``image_size``, or there are no boxes to crop to.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Mapping[str, np.ndarray],
        classes: Tensor,
        image_size: tuple[int, int],
        resize: int | None,
        augment: AugmentConfig,
        *,
        crop: bool = False,
        stretch: bool = False,
    ) -> None:
        if resize is not None and resize < max(image_size):
            raise UserError(
                f"dataset.resize must be at least {max(image_size)}, the size of the served images; got {resize}"
            )
        if crop and "boxes" not in arrays:
            raise UserError("dataset.crop=true needs a box for each image, as cub200 has; this data set has none")
        self.folder, self.arrays, self.classes = folder, arrays, classes
        self.image_size, self.resize, self.augment = image_size, resize, augment
        self.crop, self.stretch = crop, stretch
        self.draws = 1 + (RESIZED_CROP_NUMBERS if augment.resized_crop else 2)

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        image = self._read(row)
        if uniform is not None and len(uniform) > self.draws:
            image = changed_copy(image, uniform[self.draws :])
        height, width = self.image_size
        if uniform is not None and self.augment.resized_crop:
            left, top, *size = random_box(image, uniform[1:], self.augment)
            image = image.crop((left, top, left + size[0], top + size[1]))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            image = self.whole(image, uniform)
        pixels = np.asarray(image).transpose(2, 0, 1)
        if uniform is not None and self.augment.flip and uniform[0] < 0.5:
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels), self.arrays["labels"][row]

    def whole(
        self,
        image: Image.Image,
        uniform: np.ndarray | None = None,
        how: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> Image.Image:
        """The image resized as a whole and cropped: in the middle, or by ``uniform`` (float32 [draws]) anywhere."""
        height, width = self.image_size
        image = image.resize((width, height) if self.stretch else self._covering(image), how)
        left, top = self._corner(image, uniform)
        return image.crop((left, top, left + width, top + height))

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> Batch:
        images, labels = parts
        return Batch(as_floats(images), self.classes.to(labels.device)[labels.long()], index)

    def _read(self, row: int) -> Image.Image:
        orientation = int(self.arrays["orientation"][row]) if "orientation" in self.arrays else 1
        image = open_rgb(self.folder / os.fsdecode(self.arrays["paths"][row]), orientation=orientation)
        return image.crop(tuple(self.arrays["boxes"][row].tolist())) if self.crop else image

    def _covering(self, image: Image.Image) -> tuple[int, int]:
        """Width and height of the whole image before the crop."""
        width, height = image.size
        columns, rows = (self.resize, self.resize) if self.resize else self.image_size[::-1]
        # As torchvision's, the longer side is rounded down.
        if columns * height >= rows * width:
            return columns, columns * height // width
        return rows * width // height, rows

    def _corner(self, image: Image.Image, uniform: np.ndarray | None) -> tuple[int, int]:
        """Left and top of the crop: anywhere, or in the middle."""
        space = image.width - self.image_size[1], image.height - self.image_size[0]
        if uniform is None:
            return round(space[0] / 2), round(space[1] / 2)
        # In float64: in float32 the product might round up to its bound.
        return int(float(uniform[1]) * (space[0] + 1)), int(float(uniform[2]) * (space[1] + 1))
