"""Random changes of a whole batch of images at once, on whatever device it lies.

Drawing and applying are apart: the draw depends on a generator alone, so a step gives the same images on every device,
after every resume and for every number of processes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from trust_exp.data.config import AugmentConfig
from trust_exp.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION = range(3)


class Parameters(NamedTuple):
    """What happens to each of N images."""

    top: Tensor  # int64 [N]: first row of the crop in the padded image
    left: Tensor  # int64 [N]: first column
    flip: Tensor  # bool [N]
    factor: Tensor  # float32 [N, 3]: of brightness, contrast, saturation; 1 changes nothing
    order: Tensor  # int64 [N, 3]: a permutation of BRIGHTNESS, CONTRAST, SATURATION
    angle: Tensor  # float32 [N]: degrees, counter-clockwise

    def part(self, rows: slice) -> "Parameters":
        """The parameters of some of the images."""
        return Parameters(*(values[rows] for values in self))


class Augment:
    """Crop after zero padding, horizontal flip, colour jitter, rotation: each as torchvision defines it, per image.

    As in torchvision's ColorJitter the three changes of colour come in random order; hue is left alone. On grey images
    saturation does nothing. Rotation takes the nearest pixel and fills with zero, as RandomRotation does by default.
    Values stay floats from end to end, where a pipeline of PIL images rounds to 1/255 after every change.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def draw(self, generator: torch.Generator, n: int, device: torch.device | str = "cpu") -> Parameters:
        """Parameters for ``n`` images from a CPU generator, moved to ``device``."""
        config = self.config
        # Every option has its own rows, used or not: turning one on leaves the draws of the others as they were.
        uniform = torch.rand(10, n, generator=generator).to(device, non_blocking=True)
        # The product may round up to its bound, hence the minimum.
        corner = (uniform[0:2] * (2 * config.pad + 1)).long().clamp_(max=2 * config.pad)
        return Parameters(
            top=corner[0],
            left=corner[1],
            flip=uniform[2] < (0.5 if config.flip else 0.0),
            factor=(1 + config.jitter * (2 * uniform[3:6] - 1)).T,
            order=uniform[6:9].argsort(dim=0).T,
            angle=config.rotate * (2 * uniform[9] - 1),
        )

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Changed copies of ``images`` (float [N, C, H, W] in [0, 1]); same shape and range."""
        config = self.config
        if config.pad or config.flip:
            images = crop_and_flip(images, parameters.top, parameters.left, parameters.flip, config.pad)
        if config.jitter:
            images = jitter(images, parameters.factor, parameters.order)
        if config.rotate:
            images = rotate(images, parameters.angle)
        return images


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crop each zero-padded image back to its size at its own (top, left), then mirror it where ``flip`` says so.

    Args:
        images: [N, C, H, W].
        top, left: int64 [N], in 0..2 * padding.
        flip: bool [N].
    """
    n, channels, height, width = images.shape
    column = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - column, column)
    rows = top[:, None] + torch.arange(height, device=images.device)
    # One flat gather is three times as fast as indexing by rows and columns, or as windows of unfold.
    source = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(n, 1, -1)
    padded = pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, source.expand(-1, channels, -1)).view(images.shape)


def jitter(images: Tensor, factor: Tensor, order: Tensor) -> Tensor:
    """Scale brightness, contrast and saturation of each image, in its own order.

    Each is a blend, clamped to [0, 1]: with black, with the mean grey of the image, with the image in grey.

    Args:
        images: float [N, C, H, W] in [0, 1], C 1 or 3.
        factor: float [N, 3], at least 0.
        order: int64 [N, 3], a permutation of BRIGHTNESS, CONTRAST, SATURATION.

    Raises:
        UserError: for another number of channels.
    """
    for kind in order.unsqueeze(-1).unsqueeze(-1).unbind(1):
        gray = _gray(images)
        mean = gray.mean((1, 2, 3), keepdim=True) * (kind == CONTRAST).unsqueeze(-1)
        other = torch.where((kind == SATURATION).unsqueeze(-1), gray, mean)
        weight = factor.gather(1, kind.view(-1, 1)).view(-1, 1, 1, 1)
        images = other.lerp(images, weight).clamp_(0, 1)
    return images


def _gray(images: Tensor) -> Tensor:
    """Luma by ITU-R BT.601 with torchvision's digits, [N, 1, H, W]."""
    channels = images.shape[1]
    if channels == 1:
        return images
    if channels != 3:
        raise UserError(f"dataset.augment.jitter needs images of 1 or 3 channels; got {channels}")
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Turn each image about its centre by the nearest pixel; zero where nothing was.

    Args:
        images: float [N, C, H, W].
        angle: float [N], degrees, counter-clockwise.
    """
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=images.device)[None, :] - (width - 1) / 2
    radians = angle.deg2rad()[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    grid = torch.stack([(cos * x - sin * y) / (width / 2), (sin * x + cos * y) / (height / 2)], dim=-1)
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
