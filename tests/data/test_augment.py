import pytest
import torch
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as F

from trust_exp.data.augment import BRIGHTNESS, CONTRAST, SATURATION, Augment, crop_and_flip, jitter, rotate
from trust_exp.data.config import AugmentConfig
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator

EVERYTHING = AugmentConfig(pad=4, flip=True, jitter=0.25, rotate=2.0)
ADJUST = {BRIGHTNESS: F.adjust_brightness, CONTRAST: F.adjust_contrast, SATURATION: F.adjust_saturation}


def images_of(*shape):
    return torch.rand(shape, generator=keyed_generator("images", *shape))


def parameters_of(config, n=64):
    return Augment(config).draw(keyed_generator("test"), n)


def torchvision_crop_and_flip(image, parameters, i, padding):
    top, left = int(parameters.top[i]), int(parameters.left[i])
    image = F.crop(F.pad(image, [padding]), top, left, *image.shape[-2:])
    return F.horizontal_flip(image) if parameters.flip[i] else image


def torchvision_jitter(image, parameters, i):
    for kind in parameters.order[i].tolist():
        image = ADJUST[kind](image, float(parameters.factor[i, kind]))
    return image


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 5, 9)])
@pytest.mark.parametrize("padding", [0, 1, 4, 12])
def test_crop_and_flip_is_torchvisions(shape, padding):
    images, parameters = images_of(64, *shape), parameters_of(AugmentConfig(pad=padding, flip=True))
    got = crop_and_flip(images, parameters.top, parameters.left, parameters.flip, padding)
    expected = [torchvision_crop_and_flip(image, parameters, i, padding) for i, image in enumerate(images)]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.1, 0.25, 1.0])
def test_jitter_is_torchvisions(channels, strength):
    images, parameters = images_of(64, channels, 16, 16), parameters_of(AugmentConfig(jitter=strength))
    expected = [torchvision_jitter(image, parameters, i) for i, image in enumerate(images)]
    torch.testing.assert_close(jitter(images, parameters.factor, parameters.order), torch.stack(expected))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 7, 12)])
@pytest.mark.parametrize("degrees", [2.0, 90.0, 180.0])
def test_rotation_is_torchvisions(shape, degrees):
    images, parameters = images_of(64, *shape), parameters_of(AugmentConfig(rotate=degrees))
    expected = [F.rotate(image, float(angle)) for image, angle in zip(images, parameters.angle, strict=True)]
    torch.testing.assert_close(rotate(images, parameters.angle), torch.stack(expected), rtol=0, atol=0)


def test_changes_are_applied_in_the_documented_order():
    images, augment = images_of(64, 3, 32, 32), Augment(EVERYTHING)
    parameters = parameters_of(EVERYTHING)
    expected = []
    for i, image in enumerate(images):
        changed = torchvision_jitter(torchvision_crop_and_flip(image, parameters, i, 4), parameters, i)
        expected.append(F.rotate(changed, float(parameters.angle[i])))
    torch.testing.assert_close(augment.apply(images, parameters), torch.stack(expected))


def test_draws_cover_their_ranges_and_nothing_else():
    parameters = parameters_of(EVERYTHING, 20000)
    for corner in (parameters.top, parameters.left):
        assert corner.unique().tolist() == list(range(9))
        assert corner.bincount().min() > 20000 / 9 * 0.9
    assert parameters.flip.float().mean() == pytest.approx(0.5, abs=0.02)
    assert 0.75 <= parameters.factor.min() < 0.751
    assert 1.249 < parameters.factor.max() <= 1.25
    orders, counts = parameters.order.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 20000 / 6 * 0.9
    assert 1.99 < parameters.angle.abs().max() <= 2


def test_draws_of_one_option_do_not_depend_on_the_others():
    alone, together = parameters_of(AugmentConfig(rotate=2.0)), parameters_of(EVERYTHING)
    assert torch.equal(alone.angle, together.angle)


def test_no_option_changes_nothing():
    images = images_of(8, 3, 8, 8)
    assert torch.equal(Augment(AugmentConfig()).apply(images, parameters_of(AugmentConfig(), 8)), images)


def test_input_is_left_alone_and_range_kept():
    images = images_of(64, 3, 32, 32)
    before = images.clone()
    strong = AugmentConfig(pad=4, flip=True, jitter=1.0, rotate=30.0)
    changed = Augment(strong).apply(images, parameters_of(strong))
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1


def test_crop_window_is_read_from_the_padded_image():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    got = crop_and_flip(image, torch.tensor([2]), torch.tensor([0]), torch.tensor([False]), 1)
    assert torch.equal(got, pad(image, (1, 1, 1, 1))[:, :, 2:, :3])


def test_jitter_of_two_channels_is_refused():
    config = AugmentConfig(jitter=0.1)
    with pytest.raises(UserError, match=r"^dataset.augment.jitter needs images of 1 or 3 channels; got 2$"):
        Augment(config).apply(images_of(4, 2, 8, 8), parameters_of(config, 4))
