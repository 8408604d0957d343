"""Two moons and digits: data that need no files."""

import pytest
import torch

from trust_exp.data.digits import Digits
from trust_exp.data.two_moons import TwoMoons


def test_two_moons_have_the_thesis_true_margin():
    for split, points in (("train", 2000), ("test", 20000)):
        arrays = TwoMoons().arrays(split)
        assert arrays.images.shape == (points, 2)
        assert (arrays.images.dtype, arrays.labels.dtype) == (torch.float32, torch.int64)
        assert arrays.labels.bincount().tolist() == [points // 2] * 2
        upper, lower = (arrays.images[arrays.labels == label].double() for label in (0, 1))
        assert 0.3 <= torch.cdist(upper, lower).min() < 0.33  # 2 epsilon = 0.3, Losch 2024, sec. 4.3.2


def test_the_curves_are_half_a_unit_apart():
    arrays = TwoMoons(points=4001, noise_radius=0.0).arrays("train")  # an odd half has a point at the closest place
    upper, lower = (arrays.images[arrays.labels == label] for label in (0, 1))
    assert torch.cdist(upper, lower).min() == pytest.approx(0.5, abs=1e-6)


def test_noise_of_two_moons_is_uniform_in_area():
    points = {"points": 20000, "test_points": 20000}
    noise = TwoMoons(**points).arrays("train").images - TwoMoons(**points, noise_radius=0.0).arrays("train").images
    radius = noise.norm(dim=1)
    assert radius.max() <= 0.1 + 1e-6
    share_within = [(radius < 0.1 * r).float().mean().item() for r in (0.25, 0.5, 0.75)]
    assert share_within == pytest.approx([0.0625, 0.25, 0.5625], abs=0.01)
    assert noise.mean(dim=0).tolist() == pytest.approx([0, 0], abs=2e-3)


def test_two_moons_are_the_same_for_every_seed_but_not_for_every_split():
    train, other = (TwoMoons(seed=seed, test_points=2000).arrays("train").images for seed in (0, 1))
    assert torch.equal(train, other)
    assert not torch.equal(train, TwoMoons(test_points=2000).arrays("test").images)


def test_an_epoch_of_two_moons_is_twenty_steps():
    assert len(TwoMoons(batch_size=100).train_dataloader()) == 20
    assert TwoMoons().info.domain is None


def test_digits_are_scikit_learns_with_a_fixed_disjoint_split():
    from sklearn.datasets import load_digits

    data = Digits("digits")
    train, test = (data.arrays(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.dtype == torch.uint8
    assert train.images.shape[1:] == test.images.shape[1:] == data.info.shape
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert 0.19 < share.min() <= share.max() < 0.21
    values = torch.cat([train.images, test.images]).double() * 16 / 255
    labels = torch.cat([train.labels, test.labels])
    mine = sorted((int(label), *image.round().flatten().tolist()) for image, label in zip(values, labels, strict=True))
    real = load_digits()
    theirs = sorted((int(label), *image.tolist()) for image, label in zip(real.data, real.target, strict=True))
    assert mine == theirs


def test_the_first_points_of_two_moons_speak_for_all():
    arrays = TwoMoons().arrays("test")
    first = arrays.select(torch.arange(1000))
    assert 0.45 < first.labels.double().mean() < 0.55
    for label in (0, 1):
        some, every = (part.images[part.labels == label, 0] for part in (first, arrays))
        assert abs(some.mean() - every.mean()) < 0.1
        assert abs(some.std() - every.std()) < 0.1
