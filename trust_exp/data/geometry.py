"""Views: the part of an image that is served, its size and its rotation, for a whole batch at once.

A view is an affine map [2, 3] from a pixel of the served image to its place in the source: (x, y) of a pixel's centre,
which is half a pixel from its corner, goes to (a x + b y + c, d x + e y + f). That is PIL's convention. So one view
serves a batch on any device, by ``warp``, as well as one image in a worker process, by
``image.transform((width, height), Transform.AFFINE, view.flatten().tolist(), Resampling.BILINEAR)``.

The caller gives the random numbers: ``uniform``, float32 [N, K], independent and uniform in [0, 1), on the CPU. Sizes
are (height, width); those of the sources are int64 [N, 2], as every source may have its own.

Not torchvision's ``transforms.v2`` with ``tv_tensors``: they draw one change a call, from the global generator, so a
batch would be a loop. On a CPU that is as fast for a resized crop of images and maps, and takes twice as long for a
scaled and turned one and for boxes; on a GPU it would start kernels image by image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

ATTEMPTS = 10
RESIZED_CROP_NUMBERS = 2 * ATTEMPTS + 2  # an area and a shape for each attempt, then the corner
SCALED_CROP_NUMBERS = 5
SHIFTED_NUMBERS = 4


def resized_crop_boxes(uniform: Tensor, sizes: Tensor, area: Sequence[float], ratio: Sequence[float]) -> Tensor:
    """Boxes of random area and shape anywhere in the image, to be resized: torchvision's RandomResizedCrop.

    The first of ten boxes that fits is taken; if none does, the largest central one whose shape is allowed.

    Args:
        uniform: [N, RESIZED_CROP_NUMBERS].
        sizes: of the images.
        area: least and greatest area, as fractions of the image's.
        ratio: least and greatest width over height; its logarithm is uniform.

    Returns:
        int64 [N, 4]: left, top, width, height.
    """
    uniform, (low, high) = uniform.double(), (math.log(bound) for bound in ratio)
    areas = sizes.prod(1, keepdim=True) * (area[0] + (area[1] - area[0]) * uniform[:, :ATTEMPTS])
    ratios = (low + (high - low) * uniform[:, ATTEMPTS : 2 * ATTEMPTS]).exp()
    attempts = torch.stack([areas / ratios, areas * ratios], dim=2).sqrt().round().long()
    fits = ((attempts > 0) & (attempts <= sizes[:, None])).all(2)
    central = ~fits.any(1, keepdim=True)
    first = fits.long().argmax(1).view(-1, 1, 1).expand(-1, 1, 2)
    chosen = torch.where(central, _largest_of_ratio(sizes, ratio), attempts.gather(1, first).squeeze(1))
    space = sizes - chosen
    corner = torch.where(central, space // 2, (uniform[:, 2 * ATTEMPTS :] * (space + 1)).long())
    return torch.cat([corner.flip(1), chosen.flip(1)], dim=1)


def _largest_of_ratio(sizes: Tensor, ratio: Sequence[float]) -> Tensor:
    """Size of the largest box in each image whose width over height is within ``ratio``, int64 [N, 2]."""
    height, width = sizes.double().unbind(1)
    widest, highest = (height * max(ratio)).round(), (width / min(ratio)).round()
    return torch.stack([torch.minimum(height, highest), torch.minimum(width, widest)], dim=1).long()


def box_views(boxes: Tensor, size: tuple[int, int], flip: Tensor | None = None) -> Tensor:
    """Views of boxes (left, top, width, height; [N, 4]), each resized to ``size`` and mirrored where ``flip``.

    Returns:
        float64 [N, 2, 3].
    """
    boxes = boxes.double()
    stretch = torch.diag_embed(boxes[:, 2:] / _xy(size))
    return _mirrored(_views(stretch, torch.zeros(2, dtype=torch.float64), boxes[:, :2]), flip, size)


def scaled_crop_views(
    uniform: Tensor,
    sizes: Tensor,
    size: tuple[int, int],
    *,
    scale: Sequence[float] = (1, 1),
    angle: float = 0,
    flip: bool = False,
) -> Tensor:
    """Views of crops from images that are resized and turned, for dense labels (facts: hszhao/semseg's transforms).

    Height and width are scaled by one factor, uniform between the bounds of ``scale``, and rounded to whole pixels. The
    image is turned about its centre, and a crop is taken anywhere in it; where it is smaller than the crop it lies in
    the middle. The corner is a whole pixel, so without scale and angle pixels are copied. Semseg turns only every other
    image; here every one.

    Args:
        uniform: [N, SCALED_CROP_NUMBERS].
        sizes: of the images.
        size: of the crop.
        angle: degrees to either side.
        flip: mirror left and right with probability 1/2.

    Returns:
        float64 [N, 2, 3].
    """
    uniform, source, crop = uniform.double(), sizes.flip(1).double(), _xy(size)
    scaled = (source * _between(scale, uniform[:, :1])).round().clamp(min=1)
    margin = ((crop - scaled).clamp(min=0) / 2).floor()
    corner = (uniform[:, 1:3].flip(1) * ((scaled - crop).clamp(min=0) + 1)).floor() - margin
    turn = rotation(_between((-angle, angle), uniform[:, 3]))
    views = _views(torch.diag_embed(source / scaled) @ turn, scaled / 2 - corner, source / 2)
    return _mirrored(views, uniform[:, 4] < 0.5 if flip else None, size)


def shifted_views(
    uniform: Tensor,
    sizes: Tensor,
    size: tuple[int, int],
    *,
    scale: Sequence[float] = (1, 1),
    shift: float = 0,
    flip: bool = False,
) -> Tensor:
    """Views of whole images resized to ``size``, then scaled about the centre and shifted, for boxes.

    Args:
        uniform: [N, SHIFTED_NUMBERS].
        sizes: of the images.
        size: of the served image.
        scale: bounds of the factor, one for both axes; above 1 the image is larger than the served one.
        shift: of the image in x and y, uniform up to this fraction of the served size in either direction.
        flip: mirror left and right with probability 1/2.

    Returns:
        float64 [N, 2, 3].
    """
    uniform, source, served = uniform.double(), sizes.flip(1).double(), _xy(size)
    stretch = torch.diag_embed(source / served / _between(scale, uniform[:, :1]))
    middle = served * (0.5 + _between((-shift, shift), uniform[:, 1:3].flip(1)))
    return _mirrored(_views(stretch, middle, source / 2), uniform[:, 3] < 0.5 if flip else None, size)


def rotated_views(angle: Tensor, size: tuple[int, int]) -> Tensor:
    """Views of images of ``size`` turned about their centre by ``angle`` [N], degrees counter-clockwise.

    Returns:
        [N, 2, 3], of the angle's type and device.
    """
    middle = (_xy(size) / 2).to(angle)
    return _views(rotation(angle), middle, middle)


def rotation(angle: Tensor) -> Tensor:
    """Matrices [N, 2, 2] from an image turned by ``angle`` [N], degrees counter-clockwise, to its source."""
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def _views(linear: Tensor, point: Tensor, source: Tensor) -> Tensor:
    """Views with the linear part [N, 2, 2] that map ``point`` (x, y) of the served image to ``source``."""
    return torch.cat([linear, (source - _applied(linear, point)).unsqueeze(-1)], dim=2)


def _applied(linear: Tensor, points: Tensor) -> Tensor:
    """Matrices [..., 2, 2] times points [..., 2]: no matmul, which may round to ten bits on a GPU."""
    return (linear * points.unsqueeze(-2)).sum(-1)


def _mirrored(views: Tensor, flip: Tensor | None, size: tuple[int, int]) -> Tensor:
    """The views with the served image mirrored left and right where ``flip`` (bool [N]) is true."""
    if flip is None:
        return views
    x, y, constant = views.unbind(2)
    mirrored = torch.stack([-x, y, constant + size[1] * x], dim=2)
    return torch.where(flip[:, None, None], mirrored, views)


def _xy(size: tuple[int, int]) -> Tensor:
    return torch.tensor([size[1], size[0]], dtype=torch.float64)


def _between(bounds: Sequence[float], uniform: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def warp(
    images: Tensor,
    views: Tensor,
    size: tuple[int, int],
    *,
    nearest: bool = False,
    fill: float = 0,
    within: Tensor | None = None,
) -> Tensor:
    """Sample the views from the images by PIL's rules: only the source's own pixels are mixed.

    A place outside the source gives ``fill``; within half a pixel of its border the outermost pixel counts alone.
    Images are not smoothed before they become smaller.

    Args:
        images: [N, C, H, W], of any type if ``nearest``, else float.
        views: [N, 2, 3].
        size: of the served images.
        nearest: take the pixel that a place lies in, as label maps need; else interpolate bilinearly.
        fill: of the images' type.
        within: boxes (left, top, width, height; [N, 4]) in the sources whose own pixels alone are mixed.

    Returns:
        [N, C, *size], of the images' type and device.
    """
    height, width = images.shape[-2:]
    x, y = _places(views, size, images.device)
    outside = ((x < 0) | (x >= width) | (y < 0) | (y >= height)).unsqueeze(1)
    if nearest:
        index = y.long().clamp_(0, height - 1).mul_(width).add_(x.long().clamp_(0, width - 1))
        index = index.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        taken = images.flatten(2).gather(2, index).unflatten(2, size)
    else:
        if within is not None:
            left, top, columns, rows = within.to(x).view(-1, 4, 1, 1).unbind(1)
            x, y = x.clamp(left + 0.5, left + columns - 0.5), y.clamp(top + 0.5, top + rows - 0.5)
        grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1]).permute(1, 2, 3, 0)
        taken = grid_sample(images, grid, padding_mode="border", align_corners=False)
    return taken.masked_fill_(outside, fill)


def _places(views: Tensor, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The places in the source of the served pixels: x and y, float32 [N, *size]."""
    (a, b, c), (d, e, f) = (row.unbind(1) for row in views.float().to(device)[..., None, None].unbind(1))
    x = torch.arange(size[1], device=device) + 0.5
    y = (torch.arange(size[0], device=device) + 0.5).unsqueeze(1)
    return a * x + (b * y + c), d * x + (e * y + f)


def warp_boxes(boxes: Tensor, views: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes of the sources in the served images, clipped at the border.

    A turned box becomes the upright one around it. A box stays if its centre, before clipping, is in the image, as in
    abeardear/pytorch-YOLO-v1.

    Args:
        boxes: float [N, M, 4]: left, top, right, bottom in pixels.
        views: [N, 2, 3].
        size: of the served images.

    Returns:
        The boxes, float [N, M, 4], and which of them have their centre in the served image, bool [N, M].
    """
    inverse, constant = torch.linalg.inv(views[:, :, :2].double()), views[:, :, 2]
    corners = boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(2, (4, 2))
    corners = _applied(inverse.to(boxes)[:, None, None], corners - constant.to(boxes)[:, None, None])
    low, high, limit = corners.amin(2), corners.amax(2), _xy(size).to(boxes)
    middle = (low + high) / 2
    kept = ((middle >= 0) & (middle < limit)).all(2)
    return torch.cat([low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)], dim=2), kept
