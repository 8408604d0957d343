import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, ks_2samp, kstest
from torch.nn.functional import interpolate, pad
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from trust_exp.data.config import UNKNOWN
from trust_exp.data.geometry import (
    ATTEMPTS,
    RESIZED_CROP_NUMBERS,
    SCALED_CROP_NUMBERS,
    SHIFTED_NUMBERS,
    box_views,
    resized_crop_boxes,
    rotated_views,
    scaled_crop_views,
    shifted_views,
    warp,
    warp_boxes,
)
from trust_exp.rng import keyed_generator

DRAWS = 10_000
RARE = 1e-3  # the seeds are fixed: a test passes always or never
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SOURCE, SERVED = (37, 50), (32, 24)
N = 40


def uniform_of(n, numbers, *key):
    return torch.rand(n, numbers, generator=keyed_generator(*key))


def boxes_of(size, n=DRAWS, area=AREA, ratio=RATIO, uniform=None):
    uniform = uniform_of(n, RESIZED_CROP_NUMBERS, "boxes", *size) if uniform is None else uniform
    return resized_crop_boxes(uniform, torch.tensor(size).expand(n, 2), area, ratio)


def torchvision_boxes(size, n=DRAWS, area=AREA, ratio=RATIO):
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    drawn = torch.tensor([RandomResizedCrop.get_params(image, list(area), list(ratio)) for _ in range(n)])
    return drawn[:, [1, 0, 3, 2]]


def traits(boxes, size):
    left, top, width, height = boxes.double().unbind(1)
    share = {"area": width * height, "ratio": width / height}
    # Where there is no space a corner says nothing; the tiny sum keeps a quotient.
    share["left"] = left / (size[1] - width + 1e-9)
    share["top"] = top / (size[0] - height + 1e-9)
    return share


LONG = [pytest.param(size, marks=pytest.mark.slow) for size in ((500, 333), (200, 60), (10, 1000), (1000, 10))]


@pytest.mark.parametrize("size", [(32, 32), (375, 500), (60, 200), *LONG])
def test_resized_crops_are_distributed_as_torchvisions(size):
    ours, theirs = traits(boxes_of(size), size), traits(torchvision_boxes(size), size)
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > RARE, name


def test_resized_crops_may_be_rather_wide():
    size, ratio = (60, 200), (0.5, 4.0)
    ours, theirs = (traits(draw(size, ratio=ratio), size) for draw in (boxes_of, torchvision_boxes))
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > RARE, name


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (1, 9)])
def test_resized_crops_of_tiny_images_are_as_often_the_same_boxes_as_torchvisions(size):
    codes, counts = torch.cat([boxes_of(size), torchvision_boxes(size)]).unique(dim=0, return_inverse=True)
    table = torch.stack([part.bincount(minlength=len(codes)) for part in counts.split(DRAWS)])
    table = table[:, table.sum(0) >= 10]
    assert table.shape[1] == 1 or chi2_contingency(table.numpy()).pvalue > RARE


def test_the_comparison_sees_ratios_that_are_uniform_instead_of_their_logarithms():
    uniform = uniform_of(DRAWS, RESIZED_CROP_NUMBERS, "wrong")
    ratios = RATIO[0] + (RATIO[1] - RATIO[0]) * uniform[:, ATTEMPTS : 2 * ATTEMPTS]
    uniform[:, ATTEMPTS : 2 * ATTEMPTS] = (ratios / RATIO[0]).log() / math.log(RATIO[1] / RATIO[0])
    size = (375, 500)
    ours, theirs = traits(boxes_of(size, uniform=uniform), size), traits(torchvision_boxes(size), size)
    assert ks_2samp(ours["ratio"], theirs["ratio"]).pvalue < RARE


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (30, 40)])
def test_where_no_box_fits_the_largest_central_one_is_taken(size):
    area = (5.0, 6.0)  # larger than the image: nothing ever fits
    assert torch.equal(boxes_of(size, 3, area), torchvision_boxes(size, 3, area))


def test_every_image_has_its_own_size():
    sizes = torch.tensor([[10, 1000], [32, 32], [500, 333]])
    uniform = uniform_of(3, RESIZED_CROP_NUMBERS, "sizes")
    alone = [resized_crop_boxes(uniform[i : i + 1], sizes[i : i + 1], AREA, RATIO) for i in range(3)]
    assert torch.equal(resized_crop_boxes(uniform, sizes, AREA, RATIO), torch.cat(alone))
    for draw, numbers in ((scaled_crop_views, SCALED_CROP_NUMBERS), (shifted_views, SHIFTED_NUMBERS)):
        uniform = uniform_of(3, numbers, "sizes")
        alone = [draw(uniform[i : i + 1], sizes[i : i + 1], SERVED, scale=(0.5, 2)) for i in range(3)]
        torch.testing.assert_close(draw(uniform, sizes, SERVED, scale=(0.5, 2)), torch.cat(alone))


def all_views():
    sizes, flip = torch.tensor(SOURCE).expand(N, 2), torch.arange(N) % 2 == 0
    crops, shifts = uniform_of(N, SCALED_CROP_NUMBERS, "views"), uniform_of(N, SHIFTED_NUMBERS, "views")
    return {
        "box": box_views(boxes_of(SOURCE, N), SERVED, flip),
        "crop": scaled_crop_views(crops, sizes, SERVED, flip=True),
        "scaled": scaled_crop_views(crops, sizes, SERVED, scale=(0.5, 2), flip=True),
        "turned": scaled_crop_views(crops, sizes, SERVED, scale=(0.5, 2), angle=30, flip=True),
        "shifted": shifted_views(shifts, sizes, SERVED, scale=(0.8, 1.2), shift=0.2, flip=True),
        "rotated": rotated_views(torch.linspace(-180, 180, N), SOURCE),
    }


VIEWS = all_views()


@pytest.fixture(params=VIEWS)
def views(request):
    return VIEWS[request.param]


def pil(images, views, resample, fill=0):
    """What PIL makes of uint8 images [N, 3, H, W] by the same views."""
    served = []
    for image, view in zip(images, views, strict=True):
        source = Image.fromarray(image.permute(1, 2, 0).numpy())
        data, size = view.flatten().tolist(), (SERVED[1], SERVED[0])
        changed = source.transform(size, Image.Transform.AFFINE, data, resample, fillcolor=(fill,) * 3)
        served.append(torch.from_numpy(np.array(changed)).permute(2, 0, 1))
    return torch.stack(served)


def off_borders(views):
    """Whether places lie in a pixel and not between two, where rounding decides: PIL's has 16 bits after the point."""
    row, column = torch.meshgrid(*(torch.arange(side) + 0.5 for side in SERVED), indexing="ij")
    place = torch.einsum("nij,jhw->nhwi", views.double(), torch.stack([column, row, torch.ones_like(row)]).double())
    return ((place - place.round()).abs() > 0.002).all(3)


def noise():
    return torch.randint(0, 256, (N, 3, *SOURCE), dtype=torch.uint8, generator=keyed_generator("noise"))


def test_nearest_view_of_a_batch_is_pils_view_of_each_image(views):
    images = noise()
    got = warp(images, views, SERVED, nearest=True, fill=7)
    assert got.dtype == torch.uint8
    expected = pil(images, views, Image.Resampling.NEAREST, 7)
    clear = off_borders(views).unsqueeze(1).expand_as(got)
    assert clear.float().mean() > 0.9
    assert torch.equal(got[clear], expected[clear])


def test_bilinear_view_of_a_batch_is_pils_view_of_each_image(views):
    images = noise()
    got = warp(images.float() / 255, views, SERVED, fill=7 / 255)
    expected = pil(images, views, Image.Resampling.BILINEAR, 7).float() / 255
    far = (got - expected).abs() > 2 / 255
    assert not far[off_borders(views).unsqueeze(1).expand_as(far)].any()


def test_shifts_by_whole_pixels_copy_pixels():
    images = torch.rand(5, 2, *SOURCE, generator=keyed_generator("shift"))
    maps = torch.randint(0, 9, (5, 2, *SOURCE), generator=keyed_generator("shift"))
    views = torch.tensor([[[1.0, 0, x], [0, 1, y]] for x, y in [(0, 0), (3, 5), (-4, 2), (30, -20), (-60, 0)]])
    for i, (x, y) in enumerate(views[:, :, 2].long().tolist()):
        window = (slice(60 + y, 60 + y + SERVED[0]), slice(60 + x, 60 + x + SERVED[1]))
        got = warp(images, views, SERVED, fill=0.5)[i]
        torch.testing.assert_close(got, pad(images[i], (60,) * 4, value=0.5)[:, *window], rtol=0, atol=1e-5)
        got = warp(maps, views, SERVED, nearest=True, fill=UNKNOWN)[i]
        assert torch.equal(got, pad(maps[i], (60,) * 4, value=UNKNOWN)[:, *window])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64, torch.uint8, torch.float64])
def test_nearest_keeps_values_of_every_type(dtype):
    most = 2**53 + 1 if dtype in (torch.int64, torch.float64) else torch.iinfo(dtype).max
    maps = torch.full((N, 1, *SOURCE), most, dtype=dtype)
    got = warp(maps, VIEWS["scaled"], SERVED, nearest=True, fill=0)
    assert got.dtype == dtype
    assert got.unique().tolist() == [0, maps[0, 0, 0, 0].item()]


def places(n):
    """An image whose two channels are the column and the row of each pixel, and a map of their numbers."""
    row, column = torch.meshgrid(*(torch.arange(side) for side in SOURCE), indexing="ij")
    images = torch.stack([column, row]).float().expand(n, -1, -1, -1)
    return images, (row * SOURCE[1] + column).expand(n, 1, -1, -1)


def test_label_maps_stay_aligned_with_images(views):
    images, maps = places(N)
    image = warp(images, views, SERVED, fill=-9)
    label = warp(maps, views, SERVED, nearest=True, fill=UNKNOWN)[:, 0]
    known = label != UNKNOWN
    assert known.any()
    assert torch.equal(known, (image != -9).all(1))
    column, row = label % SOURCE[1], label // SOURCE[1]
    assert (image[:, 0] - column)[known].abs().max() <= 0.5001
    assert (image[:, 1] - row)[known].abs().max() <= 0.5001


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.7])
def test_scaled_crop_is_to_resize_pad_and_crop(scale):
    images = torch.rand(N, 3, *SOURCE, generator=keyed_generator("resize"))
    uniform = uniform_of(N, SCALED_CROP_NUMBERS, "resize")
    sizes = torch.tensor(SOURCE).expand(N, 2)
    views = scaled_crop_views(uniform, sizes, SERVED, scale=(scale, scale), flip=True)
    scaled = [round(side * scale) for side in SOURCE]
    space = [max(served - side, 0) for served, side in zip(SERVED, scaled, strict=True)]
    above, before = (side // 2 for side in space)
    resized = interpolate(images, scaled, mode="bilinear", align_corners=False)
    padded = pad(resized, (before, space[1] - before, above, space[0] - above), value=0.5)
    got = warp(images, views, SERVED, fill=0.5)
    for i, (_, y, x, _, mirror) in enumerate(uniform.tolist()):
        top, left = int(y * (padded.shape[2] - SERVED[0] + 1)), int(x * (padded.shape[3] - SERVED[1] + 1))
        expected = padded[i, :, top : top + SERVED[0], left : left + SERVED[1]]
        torch.testing.assert_close(got[i], expected.flip(2) if mirror < 0.5 else expected, rtol=0, atol=1e-4)


def test_turned_crop_of_the_whole_image_is_torchvisions_rotation():
    images = torch.rand(N, 3, *SOURCE, generator=keyed_generator("turn"))
    uniform = uniform_of(N, SCALED_CROP_NUMBERS, "turn")
    views = scaled_crop_views(uniform, torch.tensor(SOURCE).expand(N, 2), SOURCE, angle=45)
    angles = 45 * (2 * uniform[:, 3] - 1)
    expected = torch.stack([F.rotate(image, float(a)) for image, a in zip(images, angles, strict=True)])
    for given in (views, rotated_views(angles, SOURCE)):
        got = warp(images, given, SOURCE, nearest=True)
        assert (got == expected).float().mean() > 0.9999


def test_scale_angle_and_corner_of_crops_are_uniform():
    sizes = torch.tensor(SOURCE).expand(DRAWS, 2)
    drawn = uniform_of(DRAWS, SCALED_CROP_NUMBERS, "uniform")
    large = scaled_crop_views(drawn, sizes * 100, SERVED, scale=(0.5, 2), angle=10)
    scales = 1 / large[:, :, :2].det().sqrt()
    angles = torch.atan2(large[:, 1, 0], large[:, 0, 0]).rad2deg()
    assert kstest(scales, "uniform", (0.5, 1.5)).pvalue > RARE
    assert kstest(angles, "uniform", (-10, 20)).pvalue > RARE
    corners = scaled_crop_views(drawn, sizes, SERVED)[:, :, 2].long()
    for corner, space in zip(corners.unbind(1), (SOURCE[1] - SERVED[1], SOURCE[0] - SERVED[0]), strict=True):
        counts = corner.bincount()
        assert len(counts) == space + 1
        assert chi2_contingency([counts.tolist(), [DRAWS / (space + 1)] * (space + 1)]).pvalue > RARE


def test_scale_and_shift_of_whole_images_are_uniform():
    sizes = torch.tensor(SOURCE).expand(DRAWS, 2)
    drawn = uniform_of(DRAWS, SHIFTED_NUMBERS, "uniform")
    views = shifted_views(drawn, sizes, SERVED, scale=(0.8, 1.2), shift=0.2)
    scales = SOURCE[1] / SERVED[1] / views[:, 0, 0]
    assert kstest(scales, "uniform", (0.8, 0.4)).pvalue > RARE
    torch.testing.assert_close(scales, SOURCE[0] / SERVED[0] / views[:, 1, 1])
    centre = torch.tensor([[[SOURCE[1] / 2, SOURCE[0] / 2] * 2]]).expand(DRAWS, 1, 4)  # a box without extent
    centre = warp_boxes(centre, views, SERVED)[0][:, 0]
    for place, side in zip(centre[:, :2].unbind(1), (SERVED[1], SERVED[0]), strict=True):
        assert kstest(place / side - 0.5, "uniform", (-0.2, 0.4)).pvalue > RARE


def test_half_of_the_views_are_mirrored():
    sizes = torch.tensor(SOURCE).expand(DRAWS, 2)
    for draw, numbers in ((scaled_crop_views, SCALED_CROP_NUMBERS), (shifted_views, SHIFTED_NUMBERS)):
        drawn = uniform_of(DRAWS, numbers, "mirror")
        mirrored = draw(drawn, sizes, SERVED, flip=True)[:, 0, 0] < 0
        assert mirrored.double().mean() == pytest.approx(0.5, abs=0.02)
        assert not (draw(drawn, sizes, SERVED)[:, 0, 0] < 0).any()


def test_boxes_follow_what_they_surround(views):
    boxes = torch.tensor([8.0, 10, 18, 19]).expand(N, 1, 4)
    painted = torch.zeros(N, 1, *SOURCE, dtype=torch.uint8)
    painted[:, :, 10:19, 8:18] = 1
    seen = warp(painted, views, SERVED, nearest=True)[:, 0] == 1
    moved, _ = warp_boxes(boxes, views, SERVED)
    upright = (views[:, 0, 1].abs() < 1e-9) & (views[:, 1, 0].abs() < 1e-9)
    checked = 0
    for i in range(N):
        left, top, right, bottom = moved[i, 0].tolist()
        whole = left > 0 and top > 0 and right < SERVED[1] and bottom < SERVED[0]
        if not seen[i].any() or not (upright[i] or whole):
            continue  # of a turned rectangle that is cut, the box around the rest may be smaller
        rows, columns = seen[i].any(1).nonzero().flatten(), seen[i].any(0).nonzero().flatten()
        around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # The box is exact, the painting has whole pixels; a turned corner may be thinner than one.
        slack = 0.51 if upright[i] else 1.6
        assert [left, top, right, bottom] == pytest.approx([float(edge) for edge in around], abs=slack)
        checked += 1
    assert checked >= 8


def test_boxes_are_cut_at_the_border_and_kept_by_their_centre():
    views = torch.tensor([[[1.0, 0, 10], [0, 1, 0]]])
    boxes = torch.tensor([[[0.0, 2, 22, 8], [0, 2, 18, 8], [12, 3, 20, 60], [12, 3, 20, 62], [30, 0, 90, 9]]])
    moved, kept = warp_boxes(boxes, views, SERVED)
    assert kept.tolist() == [[True, False, True, False, False]]
    assert moved[0, :3].tolist() == [[0, 2, 12, 8], [0, 2, 8, 8], [2, 3, 10, 32]]
    moved, kept = warp_boxes(boxes[:, :0], views, SERVED)
    assert (moved.shape, kept.shape) == ((1, 0, 4), (1, 0))


def test_no_pixel_from_beyond_the_box_is_mixed_in():
    images = torch.zeros(1, 1, 8, 8)
    images[..., 2:6, 2:6] = 1
    box = torch.tensor([[2, 2, 4, 4]])
    assert warp(images, box_views(box, (16, 16)), (16, 16), within=box).unique().tolist() == [1]
    assert warp(images, box_views(box, (16, 16)), (16, 16)).min() < 1
