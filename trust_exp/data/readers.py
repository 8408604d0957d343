"""What worker processes do: read the samples in some rows of an index. They import this and no Lightning.

The protocol of all readers, and the reader of images with a class; dense.py and boxes.py have the others.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trust_exp.data import store
from trust_exp.data.batch import AnyBatch, Batch, as_floats
from trust_exp.data.config import AugmentConfig
from trust_exp.data.copies import changed_copy
from trust_exp.data.geometry import RESIZED_CROP_NUMBERS, resized_crop_boxes
from trust_exp.data.images import open_rgb
from trust_exp.errors import UserError

WATCH_SECONDS = 1.0


class Reader(Protocol):
    """Reads samples of one split in a worker process, where it was pickled to, and makes batches of them."""

    draws: int  # uniform numbers that the changes of one training sample take

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The sample in ``row`` of the index: the image (uint8 [C, H, W]) first, all of fixed shapes and types.

        ``uniform`` (float32 [draws], in [0, 1)) says how it is changed; with None it is as evaluation serves it.

        Raises:
            UserError: naming the file that cannot be read; it reaches the user.
        """

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> AnyBatch:
        """Stacked parts of samples as a batch, images as floats in [0, 1].

        ``parts`` and ``index`` (int64 [B], the rows) lie on the device; runs in the main process.
        """


class Index(dict[str, np.ndarray]):
    """The arrays of some parts of a prepared set, one after the other: what readers look up.

    A worker opens the files again and gets no copy, as an index may have a million rows.
    """

    def __init__(self, root: Path, name: str, parts: list[str]) -> None:
        super().__init__(store.open_parts(root, name, parts))
        self.origin = root, name, parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, self.origin


class Request(NamedTuple):
    """Rows to be read together, and the numbers (float32 [B, draws]) that say how their samples are changed."""

    rows: list[int]
    uniform: np.ndarray | None


class Decoder:
    """A reader as a DataLoader wants it: what stands at a request are the stacked parts of its samples.

    A mistake of the user is passed on as a value: raised here it would reach him as a worker's traceback.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | UserError:
        uniform = [None] * len(request.rows) if request.uniform is None else list(request.uniform)
        try:
            samples = [self.reader(row, numbers) for row, numbers in zip(request.rows, uniform, strict=True)]
        except UserError as error:
            return error
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))


def watch_signals(_: int) -> None:
    """In a worker: end when the process that it works for dies or ends it, and for no other signal.

    SIGTERM is blocked in workers, as it may be meant for a whole process group; and a fork server keeps workers alive
    when the process that they work for is killed.
    """
    threading.Thread(target=_wait_for_end, daemon=True).start()
    # It prints what goes wrong while memory is handed over: that the other process has ended, which is its affair.
    sys.excepthook = lambda *_: None


def _wait_for_end() -> None:
    parent = parent_process()
    while parent is not None and parent.is_alive():
        sent = signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS)
        if sent is not None and sent.si_pid == parent.pid:
            break
    os._exit(1)


def random_box(image: Image.Image, uniform: np.ndarray, augment: AugmentConfig) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random resized crop, by ``uniform`` (float32 [RESIZED_CROP_NUMBERS])."""
    numbers, size = torch.from_numpy(uniform)[None], torch.tensor([[image.height, image.width]])
    left, top, width, height = resized_crop_boxes(numbers, size, augment.resized_crop or (1, 1), augment.ratio)[
        0
    ].tolist()
    return left, top, width, height


class ClassReader:
    """Images with one class each; of the index it takes ``paths`` and ``labels``, and ``boxes`` to crop to if asked.

    Evaluation: torchvision's Resize and CenterCrop of PIL images, to the last bit. Training: its RandomResizedCrop if
    ``augment.resized_crop`` is set, else a crop anywhere in the image as evaluation resizes it; then the flip. Numbers
    beyond ``draws`` are those of a ``changed_copy``, which stands for the image.

    Args:
        folder: that the paths are relative to.
        arrays: the index: ``paths`` bytes [N], ``labels`` [N]; ``boxes`` int32 [N, 4]: left, top, right, bottom.
        classes: int64 [C], the number that each class of the index is served under.
        image_size: height and width of what is served.
        resize: shorter side before the crop; None: the least that covers ``image_size``.
        augment: of it crop and flip.
        crop: to the boxes, before all else.
        stretch: resize whole images to ``image_size``, whatever their shape, and crop nothing off.

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
            raise UserError(f"dataset.resize must be at least what is served, {max(image_size)}; got {resize}")
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
            covering = (width, height) if self.stretch else self._covering(image)
            image = image.resize(covering, Image.Resampling.BILINEAR)
            left, top = self._corner(image, uniform)
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image).transpose(2, 0, 1)
        if uniform is not None and self.augment.flip and uniform[0] < 0.5:
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels), self.arrays["labels"][row]

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> Batch:
        images, labels = parts
        return Batch(as_floats(images), self.classes.to(labels.device)[labels.long()], index)

    def _read(self, row: int) -> Image.Image:
        image = open_rgb(self.folder / os.fsdecode(self.arrays["paths"][row]))
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
