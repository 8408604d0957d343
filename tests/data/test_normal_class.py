"""One normal class: training sees it alone, testing sees all; for each class a model of its own."""

import pytest
import torch

from trust_exp.data.config import DataConfig, PreparedConfig
from trust_exp.data.digits import Digits
from trust_exp.errors import UserError


def digits(normal, **options):
    return Digits(name="digits", normal_class=normal, **{"hold_out": 0.1, **options})


def classes_in(data, split):
    return sorted(set(data.arrays(split).labels.tolist()))


def test_training_sees_the_normal_class_alone_and_testing_all():
    data = digits(["3"])
    assert data.info.task == "anomaly"
    assert data.info.normal == ((3,),)
    assert classes_in(data, "train") == classes_in(data, "val") == [3]
    assert classes_in(data, "test") == list(range(10))
    assert torch.equal(data.arrays("test").images, Digits(name="digits").arrays("test").images)


def test_several_classes_are_normal_for_one_model():
    data = digits(["3", "5"])
    assert data.info.normal == ((3, 5),)
    assert classes_in(data, "train") == [3, 5]


def test_each_class_is_normal_for_a_model_of_its_own():
    data = digits(["each"])
    assert data.info.normal == tuple((number,) for number in range(10))
    for number in (0, 7):
        alone = digits([str(number)])
        for split in ("train", "val"):
            own = data.arrays(split).index[data.arrays(split).labels == number]
            assert torch.equal(own, alone.arrays(split).index), "the same samples as in a run of one class"


def test_a_limit_counts_the_samples_of_each_model():
    assert len(digits(["3"], limit_train=40).arrays("train")) == 40
    assert digits(["each"], limit_train=40).arrays("train").labels.bincount().tolist() == [40] * 10
    one, ten = digits(["3"], limit_train=40), digits(["each"], limit_train=40)
    assert len(one.arrays("val")) == pytest.approx(len(ten.arrays("val")) / 10, abs=1)


def test_normal_samples_that_are_held_out_are_not_trained_on():
    data = digits(["3"])
    train, val = set(data.arrays("train").index.tolist()), set(data.arrays("val").index.tolist())
    assert not train & val
    assert len(train | val) == int((Digits(name="digits").arrays("train").labels == 3).sum())
    assert data.origin()["held_out"]["samples"] == len(val)


def test_without_held_out_samples_all_are_trained_on():
    data = digits(["3"], hold_out=0)
    assert data.splits == ("train", "test")
    assert len(data.arrays("train")) == int((Digits(name="digits").arrays("train").labels == 3).sum())


def test_normal_classes_are_among_the_chosen_ones():
    data = digits(["7"], classes=["1", "7", "9"])
    assert data.info.classes == ("1", "7", "9")
    assert data.info.normal == ((1,),)
    assert data.arrays("train").labels.unique().tolist() == [1]
    assert torch.equal(data.arrays("train").index, digits(["7"]).arrays("train").index)


@pytest.mark.parametrize(
    ("normal", "options", "sentence"),
    [
        (["12"], {}, "dataset.normal_class names class 12; there are 0 to 9"),
        (["thre"], {}, "the class of dataset=digits 'thre' does not exist"),
        (["3", "3"], {}, "dataset.normal_class names a class twice"),
        (list("0123456789"), {}, "dataset.normal_class names all 10 classes"),
        (["3"], {"classes": ["3"]}, "dataset.normal_class needs another class to test on"),
        (["3"], {"limit_train": 12}, "12 training samples of the normal class 3; at least 20 are needed"),
        (["each"], {"limit_train": 19}, "19 training samples of the normal class 0; at least 20 are needed"),
    ],
)
def test_what_cannot_be_is_said(normal, options, sentence):
    with pytest.raises(UserError, match=sentence):
        digits(normal, **options).arrays("train")


@pytest.mark.parametrize(
    ("given", "normal", "held_out"),
    [
        ({"normal_class": 3}, ["3"], 0.1),
        ({"normal_class": [3, 5], "hold_out": 0.2}, ["3", "5"], 0.2),
        ({"normal_class": "each", "hold_out": 0.0}, ["each"], 0),
        ({}, None, None),
    ],
)
def test_the_held_out_part_is_a_tenth_unless_it_is_given(given, normal, held_out):
    config = DataConfig(**given)
    assert (config.normal_class, config.hold_out) == (normal, held_out)
    again = DataConfig(normal_class=config.normal_class, hold_out=config.hold_out)
    assert again == config, "what is stored means the same"


def test_an_own_validation_part_is_the_held_out_one():
    assert PreparedConfig(normal_class=3, val=["val"]).hold_out is None


def test_a_normal_class_is_one_of_classes_of_images():
    with pytest.raises(UserError, match="needs a class for each image; dataset=camvid has a class for each pixel"):
        DataConfig(name="camvid", task="segmentation", normal_class=3)
    with pytest.raises(UserError, match="between 0 and 1, both excluded"):
        DataConfig(hold_out=0.0)
