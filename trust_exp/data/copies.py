"""Changed copies of training images that stay the same in all epochs, as ProtoPNet makes them before training.

A copy is turned, skewed or sheared, one kind after the other, so a number of copies that three divides has as many of
each; then mirrored half the time. Areas that a change leaves empty are cut off, and the rest is resized to the size of
the image.

Source: Chen et al. 2019 and their img_aug.py over Augmentor, whose strengths these are. Angles are whole degrees there,
and every copy goes through a JPEG file.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trust_exp.rng import keyed_generator

COPY_NUMBERS = 4  # kind, direction, strength, mirror
ROTATION, SKEW, SHEAR = 15.0, 0.2, 10.0  # degrees; of the longer side; degrees
LEAST = 0.5  # of a side that a shear leaves: only images five times as long as wide come near it

# Which of the corners (top left, top right, bottom right, bottom left) move outwards, in x or in y.
TILTS: list[tuple[tuple[int, ...], int]] = [((0, 3), 1), ((1, 2), 1), ((0, 1), 0), ((2, 3), 0)]
CORNERS: list[tuple[tuple[int, ...], int]] = [((corner,), axis) for corner in range(4) for axis in range(2)]
TILTED = 3 / 4  # of the skewed copies; the others have one corner moved


def copy_numbers(images: int, copies: int, seed: int) -> Tensor:
    """Random numbers of the copies, float32 [copies * images, COPY_NUMBERS]; copy by copy, of all images."""
    drawn = torch.rand(copies * images, COPY_NUMBERS, generator=keyed_generator(seed, "copies"))
    drawn[:, 0] = torch.arange(copies).repeat_interleave(images) % 3
    return drawn


def changed_copy(image: Image.Image, numbers: np.ndarray) -> Image.Image:
    """The copy of an image that ``numbers`` (float32 [COPY_NUMBERS], of ``copy_numbers``) stand for."""
    change = (turned, skewed, sheared)[int(numbers[0])]
    coefficients = change(*image.size, float(numbers[1]), float(numbers[2]))
    image = image.transform(image.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers[3] < 0.5 else image


def turned(width: int, height: int, side: float, amount: float) -> list[float]:
    """Coefficients of PIL's PERSPECTIVE: by up to ROTATION degrees to either side, cut to the image's own shape."""
    angle = math.copysign(math.radians(ROTATION * amount), side - 0.5)
    cos, sin = math.cos(angle), math.sin(angle)
    kept = 1 / max(cos + abs(sin) * height / width, cos + abs(sin) * width / height)
    a, b, d, e = kept * cos, -kept * sin, kept * sin, kept * cos
    return [a, b, (width - a * width - b * height) / 2, d, e, (height - d * width - e * height) / 2, 0, 0]


def skewed(width: int, height: int, direction: float, amount: float) -> list[float]:
    """Coefficients of PIL's PERSPECTIVE: one edge or one corner pulled outwards by up to SKEW of the longer side."""
    if direction < TILTED:
        moved, axis = TILTS[int(direction / TILTED * len(TILTS))]
    else:
        moved, axis = CORNERS[int((direction - TILTED) / (1 - TILTED) * len(CORNERS))]
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    pulled = source.copy()
    for corner in moved:
        pulled[corner, axis] += math.copysign(SKEW * max(width, height) * amount, source[corner, axis] - 0.5)
    return perspective(pulled, source)


def sheared(width: int, height: int, direction: float, amount: float) -> list[float]:
    """Coefficients of PIL's PERSPECTIVE: along x or y, by up to SHEAR degrees to either side."""
    slope = math.tan(math.radians(SHEAR * amount))
    along, forward = int(2 * direction), (2 * direction) % 1 < 0.5
    length, across = (height, width) if along else (width, height)
    lost = min(slope * across, (1 - LEAST) * length)
    stretch, slant = (length - lost) / length, math.copysign(lost / across, 0.5 - (not forward))
    start = 0.0 if forward else lost
    return [1, 0, 0, slant, stretch, start, 0, 0] if along else [stretch, slant, start, 0, 1, 0, 0, 0]


def perspective(served: np.ndarray, source: np.ndarray) -> list[float]:
    """Coefficients of PIL's PERSPECTIVE that lead from four points (x, y), float64 [4, 2], to four of the source."""
    rows, values = [], []
    for (x, y), (u, v) in zip(served, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return coefficients
