"""Copies as ProtoPNet makes them, against torchvision's and PIL's own ways of turning, skewing and shearing."""

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from trust_exp.data.copies import COPY_NUMBERS, ROTATION, SHEAR, SKEW, changed_copy, copy_numbers, sheared, skewed

SIZES = [(120, 90), (70, 140), (100, 100)]
KINDS = range(3)


def smooth(width, height):
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    waves = [np.sin(2 * x + y), np.cos(3 * y - x), np.sin(x * y)]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=2)).astype(np.uint8))


def copy_of(image, kind, direction, amount, mirror=0.9):
    return changed_copy(image, np.array([kind, direction, amount, mirror], dtype=np.float32))


def difference(image, other):
    return np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean()


@pytest.mark.parametrize("size", [*SIZES, (400, 60)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_from_outside_gets_in(size, kind):
    white = Image.new("RGB", size, (255, 255, 255))
    for direction in np.linspace(0, 0.999, 33):
        for amount in (0.0, 0.37, 0.999):
            assert np.asarray(copy_of(white, kind, direction, amount)).min() == 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [0.2, 0.8])
@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_a_turn_is_a_rotation_cut_and_resized(size, side, amount):
    (width, height), image = size, smooth(*size)
    angle = math.copysign(ROTATION * amount, side - 0.5)
    cos, sin = math.cos(math.radians(angle)), abs(math.sin(math.radians(angle)))
    inner = min(width / (width * cos + height * sin), height / (height * cos + width * sin))
    turned = image.rotate(angle, Image.Resampling.BICUBIC)
    margin = (width * (1 - inner) / 2, height * (1 - inner) / 2)
    box = (*margin, width - margin[0], height - margin[1])
    expected = turned.resize(size, Image.Resampling.BICUBIC, box=box)
    # The wrong side, or no turn at all, is several times as far off.
    assert difference(copy_of(image, 0, side, amount), expected) < 1.5
    assert difference(copy_of(image, 0, 1 - side, amount), expected) > 4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", [0.1, 0.3, 0.6, 0.9])
def test_a_shear_is_torchvisions_cut_and_resized(size, direction):
    (width, height), image = size, smooth(*size)
    along, degrees = direction >= 0.5, SHEAR if (2 * direction) % 1 < 0.5 else -SHEAR
    shear = [0.0, degrees] if along else [degrees, 0.0]
    whole = F.affine(image, 0.0, [0, 0], 1.0, shear, InterpolationMode.BICUBIC, center=[width / 2, height / 2])
    lost = math.tan(math.radians(SHEAR)) * (width if along else height) / 2
    box = (0, lost, width, height - lost) if along else (lost, 0, width - lost, height)
    expected = whole.resize(size, Image.Resampling.BICUBIC, box=box)
    assert difference(copy_of(image, 2, direction, 1.0), expected) < 1.5
    assert difference(image, expected) > 4


@pytest.mark.parametrize("size", SIZES)
def test_a_skew_is_torchvisions_perspective(size):
    (width, height), image, pulled = size, smooth(*size), SKEW * max(size)
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    upwards = [[0, -pulled], [width, 0], [width, height], [0, height + pulled]]  # the left edge: the first of the tilts
    expected = F.perspective(image, corners, upwards, InterpolationMode.BICUBIC)
    assert difference(copy_of(image, 1, 0.0, 1.0), expected) < 1.5
    assert difference(image, expected) > 4


def test_skews_have_twelve_directions_as_often_as_in_augmentor():
    # TILT, TILT_LEFT_RIGHT, TILT_TOP_BOTTOM and CORNER are as likely; the second and third share the first's four.
    found = Counter(tuple(np.round(skewed(100, 80, direction, 1.0), 9)) for direction in np.arange(3200) / 3200)
    assert sorted(found.values()) == [100] * 8 + [600] * 4


def test_shears_go_along_both_axes_to_both_sides():
    found = Counter(tuple(np.round(sheared(100, 80, direction, 1.0), 9)) for direction in np.arange(400) / 400)
    assert sorted(found.values()) == [100] * 4


def test_numbers_of_copies():
    numbers = copy_numbers(500, 30, seed=3)
    assert numbers.shape == (15000, COPY_NUMBERS)
    assert numbers[:, 0].view(30, 500).unique(dim=1).flatten().tolist() == [0, 1, 2] * 10
    assert numbers[:, 1:].mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert not numbers.equal(copy_numbers(500, 30, seed=4))
    assert numbers.equal(copy_numbers(500, 30, seed=3))


def test_half_are_mirrored():
    image = smooth(60, 40)
    flipped = copy_of(image, 0, 0.5, 0.0, mirror=0.49)
    assert flipped == image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert copy_of(image, 0, 0.5, 0.0, mirror=0.5) == image
