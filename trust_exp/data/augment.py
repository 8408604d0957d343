"""Random changes of a whole batch of images at once, on any device.

Drawing and applying are apart: the draw depends on a generator alone, so a step gives the same images on every device,
after every resume and for every number of processes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from trust_exp.data.batch import as_floats
from trust_exp.data.config import UNKNOWN, AugmentConfig
from trust_exp.data.geometry import (
    RESIZED_CROP_NUMBERS,
    SCALED_CROP_NUMBERS,
    SHIFTED_NUMBERS,
    box_views,
    resized_crop_boxes,
    rotated_views,
    scaled_crop_views,
    shifted_views,
    warp,
)
from trust_exp.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GAUSSIAN = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # in OpenCV a table, not a sampled Gaussian


class Parameters(NamedTuple):
    """The changes of each of N images."""

    top: Tensor  # int64 [N]: first row of the crop in the padded image
    left: Tensor  # int64 [N]: first column
    flip: Tensor  # bool [N]
    factor: Tensor  # float32 [N, 3]: of brightness, contrast, saturation; 1 changes nothing
    order: Tensor  # int64 [N, 3]: a permutation of BRIGHTNESS, CONTRAST, SATURATION; [N, 4] with HUE
    angle: Tensor  # float32 [N]: degrees, counter-clockwise
    blur: Tensor  # bool [N]
    turn: Tensor  # float32 [N]: of the hue, in turns of the colour circle
    crop: Tensor  # float32 [N, RESIZED_CROP_NUMBERS or 0], on the CPU: numbers for a resized, scaled or shifted crop

    def part(self, rows: slice) -> "Parameters":
        """The parameters of some of the images."""
        return Parameters(*(values[rows] for values in self))


class Augment:
    """Crop, horizontal flip, colour jitter, rotation, blur, in this order, each image by its own draw.

    The crop is one after zero padding, a resized one (bilinear), or one of a scaled or shifted image. Crop, flip,
    jitter and rotation are torchvision's: the changes of colour come in random order, rotation takes the nearest pixel
    and fills with zero. On grey images saturation and hue do nothing. Values stay floats from end to end, where a
    pipeline of PIL images rounds to 1/255 after every change.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def draw(self, generator: torch.Generator, n: int, device: torch.device | str = "cpu") -> Parameters:
        """Parameters for ``n`` images from a CPU generator, moved to ``device``."""
        config = self.config
        # Every option has its own rows, used or not: turning one on leaves the draws of the others as they were.
        uniform = torch.rand(13, n, generator=generator).to(device, non_blocking=True)
        crops = config.resized_crop or config.scale or config.shift
        # The product may round up to its bound, hence the minimum.
        corner = (uniform[0:2] * (2 * config.pad + 1)).long().clamp_(max=2 * config.pad)
        colours = torch.cat([uniform[6:9], uniform[12:13]]) if config.hue else uniform[6:9]
        return Parameters(
            top=corner[0],
            left=corner[1],
            flip=uniform[2] < (0.5 if config.flip else 0.0),
            factor=(1 + config.jitter * (2 * uniform[3:6] - 1)).T,
            order=colours.argsort(dim=0).T,
            angle=config.rotate * (2 * uniform[9] - 1),
            blur=uniform[10] < config.blur,
            turn=config.hue * (2 * uniform[11] - 1),
            crop=torch.rand(n, RESIZED_CROP_NUMBERS if crops else 0, generator=generator),
        )

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Changed copies of ``images`` ([N, C, H, W], uint8 or float in [0, 1]), float in [0, 1].

        They have the size of the images, or ``config.size``. From uint8 the result is the same and comes faster, as
        less is moved.

        Raises:
            UserError: if colours of images are to be changed that have neither 1 nor 3 channels.
        """
        config = self.config
        images = as_floats(self._crop(images, parameters, nearest=False, fill=0))
        if config.jitter or config.hue:
            turn = parameters.turn if config.hue else None
            images = jitter(images, parameters.factor, parameters.order, turn)
        if config.rotate:
            images = rotate(images, parameters.angle)
        return blur(images, parameters.blur) if config.blur else images

    def apply_maps(self, maps: Tensor, parameters: Parameters) -> Tensor:
        """Label maps (integers [N, M, H, W]) moved as ``apply`` moves the images; UNKNOWN where nothing was."""
        maps = self._crop(maps, parameters, nearest=True, fill=UNKNOWN)
        if self.config.rotate:
            size = (maps.shape[2], maps.shape[3])
            maps = warp(maps, rotated_views(parameters.angle, size), size, nearest=True, fill=UNKNOWN)
        return maps

    def _crop(self, images: Tensor, parameters: Parameters, *, nearest: bool, fill: int) -> Tensor:
        config, n, size = self.config, len(images), (images.shape[2], images.shape[3])
        sizes = torch.tensor(size).expand(n, 2)
        views, within = None, None
        if config.resized_crop:
            within = resized_crop_boxes(parameters.crop, sizes, config.resized_crop, config.ratio)
            views = box_views(within, size)
        elif config.shift:
            numbers = parameters.crop[:, :SHIFTED_NUMBERS]
            views = shifted_views(numbers, sizes, size, scale=config.scale or (1, 1), shift=config.shift)
        elif config.scale:
            size = (config.size[0], config.size[1]) if config.size else size
            views = scaled_crop_views(parameters.crop[:, :SCALED_CROP_NUMBERS], sizes, size, scale=config.scale)
        if views is not None:
            images = images if nearest else as_floats(images)
            images = warp(images, views, size, nearest=nearest, fill=fill, within=within)
            images = images if nearest else images.clamp_(0, 1)  # weights may add up to a little more than 1
        if config.pad or config.flip:
            images = crop_and_flip(images, parameters.top, parameters.left, parameters.flip, config.pad, fill)
        return images


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, fill: int = 0) -> Tensor:
    """Crop each padded image back to its size at its own (top, left), then mirror it where ``flip`` says so.

    Args:
        images: [N, C, H, W].
        top, left: int64 [N], in 0..2 * padding.
        flip: bool [N].
        fill: value of the padding.
    """
    n, channels, height, width = images.shape
    column = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - column, column)
    rows = top[:, None] + torch.arange(height, device=images.device)
    # One flat gather is three times as fast as indexing by rows and columns, or as windows of unfold.
    source = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(n, 1, -1)
    padded = pad(images, (padding,) * 4, value=fill).flatten(2)
    return padded.gather(2, source.expand(-1, channels, -1)).view(images.shape)


def jitter(images: Tensor, factor: Tensor, order: Tensor, turn: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order.

    The first three are blends, clamped to [0, 1]: with black, with the mean grey of the image, with the image in grey.

    Args:
        images: float [N, C, H, W] in [0, 1], C 1 or 3.
        factor: float [N, 3], at least 0.
        order: int64 [N, 3], a permutation of BRIGHTNESS, CONTRAST, SATURATION, or [N, 4] with HUE.
        turn: float [N], of the hue, in turns; needed with HUE.

    Raises:
        UserError: for another number of channels.
    """
    changed = torch.empty_like(images)
    weight = pad(factor, (0, 1), value=1.0).gather(1, order)  # HUE blends with nothing
    rest = 1 - weight
    shares = torch.stack([weight, rest * (order == SATURATION), rest * (order == CONTRAST)])[..., None, None, None]
    # Of grey and mean at most one has a share. One buffer is used again and again: on a CPU memory takes the time.
    for kind, (of_image, of_gray, of_mean) in zip(order.unbind(1), shares.unbind(2), strict=True):
        gray = _gray(images)
        mean = gray.mean((1, 2, 3), keepdim=True)
        torch.addcmul(gray.mul_(of_gray).add_(mean * of_mean), images, of_image, out=changed).clamp_(0, 1)
        images = changed
        if turn is not None:
            chosen = kind == HUE
            images[chosen] = turn_hue(images[chosen], turn[chosen])
    return images


def _gray(images: Tensor) -> Tensor:
    """Luma by ITU-R BT.601 with torchvision's digits, a new [N, 1, H, W]."""
    channels = images.shape[1]
    if channels == 1:
        return images.clone()
    if channels != 3:
        raise UserError(f"dataset.augment.jitter needs images of 1 or 3 channels; got {channels}")
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of each image, its saturation and value in HSV left as they are; grey images stay as they are.

    Args:
        images: float [N, C, H, W] in [0, 1], C 1 or 3.
        turn: float [N], in turns of the colour circle.
    """
    if images.shape[1] == 1:
        return images
    (most, brightest), least = images.max(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = most - least
    # From the brightest channel: the next one less the one after, and a third of the circle for every channel.
    difference = (images.roll(-1, 1) - images.roll(-2, 1)).gather(1, brightest)
    hue = 2 * brightest + difference / torch.where(chroma > 0, chroma, 1) + 6 * turn.view(-1, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(1, 3, 1, 1)
    place = (hue + 5 - 2 * channel).remainder_(6)
    return most - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


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
    grid = images.new_empty(2, len(images), height, width)
    torch.sub(cos * x, sin * y, out=grid[0]).div_(width / 2)
    torch.add(sin * x, cos * y, out=grid[1]).div_(height / 2)
    grid = grid.permute(1, 2, 3, 0)  # with both in the last dimension it takes longer to fill than to sample
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def blur(images: Tensor, chosen: Tensor) -> Tensor:
    """Smooth the chosen images by a Gaussian of 5x5 pixels, mirrored at the border.

    Args:
        images: float [N, C, H, W], H and W at least 3.
        chosen: bool [N].

    Source: GaussianBlur of OpenCV with a size of 5 and a deviation of 0, as hszhao/semseg calls it.
    """
    height, width = images.shape[-2:]
    padded = pad(images, (2, 2, 2, 2), mode="reflect")
    none = images.new_zeros(())
    rows = sum((weight * padded[..., i : i + height, :] for i, weight in enumerate(GAUSSIAN)), start=none)
    smooth = sum((weight * rows[..., i : i + width] for i, weight in enumerate(GAUSSIAN)), start=none)
    return torch.where(chosen.view(-1, 1, 1, 1), smooth, images)
