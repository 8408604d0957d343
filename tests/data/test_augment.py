import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torch.nn.functional import conv2d, pad
from torchvision import transforms
from torchvision.transforms.v2 import functional as F

from trust_exp.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Augment,
    blur,
    crop_and_flip,
    jitter,
    rotate,
    turn_hue,
)
from trust_exp.data.config import UNKNOWN, AugmentConfig
from trust_exp.data.geometry import resized_crop_boxes
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator

EVERYTHING = AugmentConfig(pad=4, flip=True, jitter=0.25, rotate=2.0)
RESIZED = AugmentConfig(resized_crop=[0.08, 1.0])
ADJUST = {BRIGHTNESS: F.adjust_brightness, CONTRAST: F.adjust_contrast, SATURATION: F.adjust_saturation}
DRAWS = 10_000
RARE = 1e-3  # the seeds are fixed: a test passes always or never


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
        if kind == HUE:
            image = F.adjust_hue(image, float(parameters.turn[i]))
        else:
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("hue", [0.05, 0.5])
def test_jitter_with_hue_is_torchvisions(channels, hue):
    config = AugmentConfig(jitter=0.25, hue=hue)
    images, parameters = images_of(64, channels, 16, 16), parameters_of(config)
    assert len(parameters.order.unique(dim=0)) > 12  # of 24
    expected = torch.stack([torchvision_jitter(image, parameters, i) for i, image in enumerate(images)])
    torch.testing.assert_close(Augment(config).apply(images, parameters), expected, rtol=0, atol=1e-5)


def test_turned_hues_of_grey_black_and_pure_colours_are_torchvisions():
    levels = torch.tensor([0.0, 0.25, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 1, 27)  # two or three channels tie
    turn = torch.linspace(-0.5, 0.5, 13)
    got = turn_hue(colours.expand(13, -1, -1, -1), turn)
    expected = torch.stack([F.adjust_hue(colours[0], float(part)) for part in turn])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 12), (3, 40, 10)])
def test_resized_crop_is_torchvisions(shape):
    images, parameters = images_of(64, *shape), parameters_of(RESIZED)
    boxes = resized_crop_boxes(parameters.crop, torch.tensor(shape[1:]).expand(64, 2), (0.08, 1), (3 / 4, 4 / 3))
    expected = [
        F.resized_crop(image, top, left, height, width, shape[1:])
        for image, (left, top, width, height) in zip(images, boxes.tolist(), strict=True)
    ]
    got = Augment(RESIZED).apply(images, parameters)
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-5)


def test_blur_is_the_binomial_kernel_on_mirrored_images_and_only_where_chosen():
    images, chosen = images_of(8, 3, 7, 9), torch.arange(8) % 2 == 0
    kernel = torch.tensor([1.0, 4, 6, 4, 1]).outer(torch.tensor([1.0, 4, 6, 4, 1])) / 256
    padded = pad(images, (2, 2, 2, 2), mode="reflect").flatten(0, 1).unsqueeze(1)
    expected = conv2d(padded, kernel[None, None]).view(images.shape)
    got = blur(images, chosen)
    torch.testing.assert_close(got[chosen], expected[chosen])
    assert torch.equal(got[~chosen], images[~chosen])


def test_blur_comes_as_often_as_it_should():
    assert parameters_of(AugmentConfig(blur=0.3), DRAWS).blur.float().mean() == pytest.approx(0.3, abs=0.02)
    assert not parameters_of(EVERYTHING, DRAWS).blur.any()
    assert parameters_of(AugmentConfig(blur=1.0), DRAWS).blur.all()


def test_draws_are_those_of_earlier_versions():
    n = 64
    uniform = torch.rand(10, n, generator=keyed_generator("test"))
    for config in (EVERYTHING, AugmentConfig(**vars(EVERYTHING) | {"hue": 0.1, "blur": 0.5, "shift": 0.1})):
        parameters = parameters_of(config, n)
        assert torch.equal(parameters.top, (uniform[0] * 9).long())
        assert torch.equal(parameters.left, (uniform[1] * 9).long())
        assert torch.equal(parameters.flip, uniform[2] < 0.5)
        assert torch.equal(parameters.factor, (1 + 0.25 * (2 * uniform[3:6] - 1)).T)
        assert torch.equal(parameters.angle, 2.0 * (2 * uniform[9] - 1))
        order = parameters.order[parameters.order != HUE].view(n, 3)
        assert torch.equal(order, uniform[6:9].argsort(dim=0).T)


def test_draws_of_different_options_are_independent():
    parameters = parameters_of(AugmentConfig(**vars(EVERYTHING) | {"hue": 0.1, "blur": 0.5}), DRAWS)
    drawn = [values.view(DRAWS, -1).double() for values in parameters[:-1]]
    drawn[4] = drawn[4][:, :3]  # the last of four kinds follows from the others
    correlation = torch.corrcoef(torch.cat(drawn, dim=1).T)
    order = slice(6, 9)  # kinds exclude each other
    correlation[order, order] = torch.eye(3)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.05


def assert_same_distribution(ours, theirs):
    assert ks_2samp(torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()).pvalue > RARE


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(1, 40, 48)
    theirs = torch.tensor([transforms.RandomCrop.get_params(image, (32, 40))[:2] for _ in range(DRAWS)])
    ours = parameters_of(EVERYTHING, DRAWS)
    for corner, other in ((ours.top, theirs[:, 0]), (ours.left, theirs[:, 1])):
        table = torch.stack([corner.bincount(minlength=9), other.bincount(minlength=9)])
        assert chi2_contingency(table.numpy()).pvalue > RARE
    wrong = parameters_of(AugmentConfig(pad=5), DRAWS).top.clamp(0, 8)  # the test has power: two corners in one
    table = torch.stack([wrong.bincount(minlength=9), theirs[:, 0].bincount(minlength=9)])
    assert chi2_contingency(table.numpy()).pvalue < RARE


def test_flips_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    transform, image = transforms.RandomHorizontalFlip(), torch.tensor([[[0.0, 1.0]]])
    theirs = sum(float(transform(image)[0, 0, 0]) for _ in range(DRAWS))
    ours = float(parameters_of(EVERYTHING, DRAWS).flip.sum())
    assert chi2_contingency([[ours, DRAWS - ours], [theirs, DRAWS - theirs]]).pvalue > RARE


def test_angles_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    theirs = [transforms.RandomRotation.get_params([-15.0, 15.0]) for _ in range(DRAWS)]
    ours = parameters_of(AugmentConfig(rotate=15.0), DRAWS).angle
    assert_same_distribution(ours, theirs)
    assert ks_2samp(ours.sort().values[DRAWS // 20 :], theirs).pvalue < RARE  # the test has power


def test_colour_changes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    reference = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    ranges = reference.brightness, reference.contrast, reference.saturation, reference.hue
    drawn = [reference.get_params(*ranges) for _ in range(DRAWS)]
    ours = parameters_of(AugmentConfig(jitter=0.4, hue=0.1), DRAWS)
    theirs = torch.tensor([factors for _, *factors in drawn])
    for kind in (BRIGHTNESS, CONTRAST, SATURATION):
        assert_same_distribution(ours.factor[:, kind], theirs[:, kind])
    assert_same_distribution(ours.turn, theirs[:, HUE])
    orders = torch.cat([ours.order, torch.stack([order for order, *_ in drawn])])
    kinds, which = orders.unique(dim=0, return_inverse=True)
    assert len(kinds) == 24
    table = torch.stack([part.bincount(minlength=24) for part in which.split(DRAWS)])
    assert chi2_contingency(table.numpy()).pvalue > RARE


GEOMETRY = {
    "pad": {"pad": 4},
    "flip": {"flip": True},
    "rotate": {"rotate": 30.0},
    "pad, flip, rotate": {"pad": 3, "flip": True, "rotate": 180.0},
    "scale": {"scale": [0.5, 2.0], "flip": True},
    "shift": {"shift": 0.2, "flip": True},
    "scale and shift": {"scale": [0.8, 1.2], "shift": 0.2, "rotate": 10.0},
    "resized crop": {"resized_crop": [0.08, 1.0], "flip": True, "rotate": 10.0},
}


@pytest.mark.parametrize("option", GEOMETRY)
def test_label_maps_stay_aligned_with_images(option):
    config, height, width = AugmentConfig(**GEOMETRY[option]), 20, 25
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # Places count from 1, as what lies outside is filled with 0, in units that fit into [0, 1] and are exact.
    images = ((torch.stack([column, row]) + 1) / 32).expand(64, -1, -1, -1)
    maps = (row * width + column).expand(64, 1, -1, -1).to(torch.int16)
    parameters = parameters_of(config)
    image, label = Augment(config).apply(images, parameters), Augment(config).apply_maps(maps, parameters)
    assert label.dtype == torch.int16
    known = label[:, 0] != UNKNOWN
    assert torch.equal(known, (image > 0).all(1))
    assert not torch.equal(label, maps)
    copied = not {"scale", "resized_crop", "shift"} & GEOMETRY[option].keys()
    for channel, place in ((0, label[:, 0] % width), (1, label[:, 0] // width)):
        far = (32 * image[:, channel] - 1 - place)[known].abs()
        assert far.max() <= (0 if copied else 0.5001)


def test_changes_of_colour_leave_label_maps_alone():
    config = AugmentConfig(jitter=0.5, hue=0.1, blur=1.0)
    maps = torch.randint(-1, 9, (64, 2, 8, 8), generator=keyed_generator("maps"))
    assert torch.equal(Augment(config).apply_maps(maps, parameters_of(config)), maps)


@pytest.mark.parametrize("crop", [{"pad": 4}, {"resized_crop": [0.1, 1.0]}, {"jitter": 0.2}])
def test_bytes_give_what_floats_give(crop):
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=keyed_generator("bytes"))
    before, config = images.clone(), AugmentConfig(flip=True, rotate=5.0, **crop)
    parameters = parameters_of(config)
    expected = Augment(config).apply(images.float() / 255, parameters)
    assert torch.equal(Augment(config).apply(images, parameters), expected)
    assert torch.equal(images, before)


def test_every_option_leaves_its_input_alone_and_keeps_the_range():
    images = images_of(64, 3, 32, 32)
    before = images.clone()
    for crop in ({"pad": 4}, {"resized_crop": [0.1, 1.0]}, {"scale": [0.5, 2.0], "shift": 0.3}):
        config = AugmentConfig(flip=True, jitter=1.0, hue=0.5, rotate=30.0, blur=0.5, **crop)
        changed = Augment(config).apply(images, parameters_of(config))
        assert torch.equal(images, before)
        assert changed.shape == images.shape
        assert 0 <= changed.min() <= changed.max() <= 1
