"""The reader of images with label maps, for segmentation."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trust_exp.data.batch import DatasetInfo, DenseBatch, as_floats
from trust_exp.data.config import UNKNOWN, AugmentConfig
from trust_exp.data.geometry import RESIZED_CROP_NUMBERS, SCALED_CROP_NUMBERS, box_views, scaled_crop_views
from trust_exp.data.readers.classes import random_box
from trust_exp.data.readers.images import open_rgb
from trust_exp.errors import UserError


class DenseReader:
    """Images with label maps: a ``Reader``.

    Training, by ``augment``: with ``scale`` a crop, of ``size`` if that is given, of the scaled, turned and mirrored
    image, black and UNKNOWN where nothing is (see ``scaled_crop_views``; PSPNet's recipe); with ``resized_crop`` a box
    of random area that is resized; else as in evaluation, perhaps mirrored. Evaluation: the whole image resized to
    ``image_size``, or with ``resize`` the middle of what has that shorter side. Images are interpolated bilinearly, and
    smoothed where they become smaller, except by ``scale``; maps of any resolution take the nearest pixel.

    Args:
        read_maps: reads the label maps of an image from the folder and its row of ``maps``, see ``Source.maps``.
        folder: that the paths are relative to.
        arrays: the index: ``paths`` bytes [N], and ``maps`` bytes [N, K].
        info: of the data set; the label map comes first if it has classes, then those of its layers.
        image_size: height and width of the served images.
        resize: shorter side before the central crop of evaluation; None: no crop.
        augment: the changes of training images.

    Raises:
        UserError: if ``augment`` has a change that label maps cannot follow.
    """

    def __init__(
        self,
        read_maps: Callable[[Path, np.ndarray], np.ndarray],
        folder: Path,
        arrays: Mapping[str, np.ndarray],
        info: DatasetInfo,
        image_size: tuple[int, int],
        resize: int | None,
        augment: AugmentConfig,
    ) -> None:
        for key in ("pad", "shift"):
            if getattr(augment, key):
                raise UserError(f"dataset.augment.{key} is not available for label maps; crop by scale or resized_crop")
        if augment.rotate and not augment.scale:
            raise UserError(
                f"dataset.augment.rotate needs scale with dataset={info.name}, e.g. dataset.augment.scale=[1,1]"
            )
        self.read_maps, self.folder, self.arrays = read_maps, folder, arrays
        self.has_classes = bool(info.classes)
        self.size, self.resize, self.augment = image_size, resize, augment
        self.crop_size = (augment.size[0], augment.size[1]) if augment.size else image_size
        self.draws = SCALED_CROP_NUMBERS if augment.scale else RESIZED_CROP_NUMBERS + 1 if augment.resized_crop else 1

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The sample in ``row``, changed by ``uniform`` (float32 [draws]), unchanged if that is None.

        Returns:
            image uint8 [3, H, W]; maps int16 [M, H, W].

        Raises:
            UserError: if a file cannot be read, or the image is too small for the crop of evaluation.
        """
        path = self.folder / os.fsdecode(self.arrays["paths"][row])
        image = open_rgb(path)
        maps = self.read_maps(self.folder, self.arrays["maps"][row])
        if uniform is None and self.resize is None and (image.height, image.width) == maps.shape[1:] == self.size:
            return np.array(image).transpose(2, 0, 1), maps
        if uniform is not None and self.augment.scale:
            size, view = self.crop_size, self._scaled_crop(uniform, image)
            pixels = _transformed(image, view, size)
        else:
            box, flip = self._box(uniform, image, path)
            size, view = self.size, box_views(torch.tensor([box]), self.size, torch.tensor([flip]))[0]
            pixels = self._resized(image, box, flip)
        return pixels.transpose(2, 0, 1), nearest(maps, view, size, (image.height, image.width))

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> DenseBatch:
        """Stacked parts of samples as a batch."""
        image, maps = parts[0], parts[1].long()
        if self.has_classes:
            return DenseBatch(as_floats(image), maps[:, 0], index, maps[:, 1:])
        return DenseBatch(as_floats(image), torch.full_like(maps[:, 0], UNKNOWN), index, maps)

    def _scaled_crop(self, uniform: np.ndarray, image: Image.Image) -> Tensor:
        augment = self.augment
        return scaled_crop_views(
            torch.from_numpy(uniform)[None],
            torch.tensor([[image.height, image.width]]),
            self.crop_size,
            scale=augment.scale or (1, 1),
            angle=augment.rotate,
            flip=augment.flip,
        )[0]

    def _box(self, uniform: np.ndarray | None, image: Image.Image, path: Path) -> tuple[tuple[float, ...], bool]:
        """Left, top, width, height of the served part of the image, and whether it is mirrored."""
        flip = uniform is not None and self.augment.flip and bool(uniform[-1] < 0.5)
        if uniform is not None and self.augment.resized_crop:
            return random_box(image, uniform[:RESIZED_CROP_NUMBERS], self.augment), flip
        return self._middle(image, path), flip

    def _middle(self, image: Image.Image, path: Path) -> tuple[float, float, float, float]:
        if self.resize is None:
            return 0, 0, image.width, image.height
        height, width = (side * min(image.size) / self.resize for side in self.size)
        if height > image.height or width > image.width:
            raise UserError(
                f"{path} has {image.width}x{image.height} pixels; with a shorter side of dataset.resize={self.resize} "
                f"it is smaller than dataset.image_size={list(self.size)}"
            )
        return (image.width - width) / 2, (image.height - height) / 2, width, height

    def _resized(self, image: Image.Image, box: tuple[float, ...], flip: bool) -> np.ndarray:
        left, top, width, height = box
        corners = (left, top, min(left + width, image.width), min(top + height, image.height))  # sums may round up
        pixels = np.array(image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR, corners))
        return pixels[:, ::-1] if flip else pixels


def _transformed(image: Image.Image, view: Tensor, size: tuple[int, int]) -> np.ndarray:
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.array(image.transform((size[1], size[0]), affine, view.flatten().tolist(), bilinear))


def nearest(maps: np.ndarray, view: Tensor, size: tuple[int, int], source: tuple[int, int]) -> np.ndarray:
    """Sample a view from label maps by the nearest pixel; UNKNOWN outside. ``geometry.warp`` for one sample.

    Args:
        maps: int16 [M, h, w], of any resolution.
        view: float64 [2, 3], into the image that the maps are of.
        size: height and width of the served maps.
        source: height and width of that image.

    Returns:
        int16 [M, H, W].
    """
    height, width = maps.shape[1:]
    (a, b, c), (d, e, f) = view.tolist()
    x, y = np.arange(size[1]) + 0.5, (np.arange(size[0]) + 0.5)[:, None]
    column = np.floor((a * x + (b * y + c)) * (width / source[1])).astype(np.int32)
    row = np.floor((d * x + (e * y + f)) * (height / source[0])).astype(np.int32)
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    taken = maps.reshape(len(maps), -1).take(np.where(within, row * width + column, 0), axis=1)
    taken[:, ~within] = UNKNOWN
    return taken
