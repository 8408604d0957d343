"""The validation split: samples held out of the training split, or a part of the set's own."""

import hashlib

import numpy as np
import pytest
import torch

from trust_exp.data.batch import Arrays, DatasetInfo
from trust_exp.data.digits import Digits
from trust_exp.data.module import ArrayDataModule, PreparedDataModule
from trust_exp.data.street_scenes.module import StreetScenes
from trust_exp.data.subset import held_out
from trust_exp.data.two_moons import TwoMoons
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator

LABELS = torch.randint(0, 7, (500,), generator=keyed_generator("labels"))


@pytest.mark.parametrize("fraction", [0.003, 0.1, 0.5, 0.997])
def test_the_same_part_of_each_class_is_held_out(fraction):
    rows = held_out(LABELS, fraction, "animals")
    assert torch.equal(rows, rows.unique())
    for label in range(7):
        size = LABELS.tolist().count(label)
        expected = min(max(round(fraction * size), 1), size - 1)
        assert int((LABELS[rows] == label).sum()) == expected


def test_what_is_held_out_depends_on_the_name_of_the_data_alone():
    rows = held_out(LABELS, 0.1, "animals")
    torch.manual_seed(7)
    assert torch.equal(held_out(LABELS, 0.1, "animals"), rows)
    assert not torch.equal(held_out(LABELS, 0.1, "birds"), rows)
    assert not torch.equal(rows, rows.sort().values[0] + torch.arange(len(rows))), "they come from the whole split"


def test_a_class_with_a_single_sample_keeps_it_for_training():
    labels = torch.tensor([0, 1, 1, 2, 0])
    assert labels[held_out(labels, 0.9, "animals")].sort().values.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"needs a class with two samples; dataset=animals has none$"):
        held_out(torch.tensor([0, 1, 2]), 0.9, "animals")


def test_of_dense_data_any_samples_are_held_out():
    rows = held_out(torch.zeros(50, 4, 4), 0.1, "streets")
    assert len(rows.unique()) == 5


def index_of(loader) -> torch.Tensor:
    return torch.cat([batch.index for batch in loader])


def test_held_out_digits_are_served_as_val_and_never_as_train():
    whole, data = Digits("digits"), Digits("digits", hold_out=0.1, batch_size=100)
    assert (whole.splits, data.splits) == (("train", "test"), ("train", "val", "test"))
    train, val = data.served("train"), data.served("val")
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(1438))
    assert data.size("val") == len(val) == 143
    assert torch.equal(data.served("test"), whole.served("test"))
    trained = torch.cat([index_of(data.train_dataloader()) for _ in range(3)])
    assert not torch.isin(trained, val).any()
    assert torch.equal(index_of(data.eval_loader("val")), val)
    batch = data.samples("val", torch.tensor([5, 0]))
    assert torch.equal(batch.index, val[[5, 0]])
    assert torch.equal(batch.image, whole.samples("train", val[[5, 0]]).image)
    assert torch.equal(data.labels("val")[val], data.served_labels("val"))
    assert torch.equal(data.served_labels("val"), data.arrays("val").labels)


def test_every_seed_holds_out_the_same_and_its_checksum_is_recorded():
    one, other = (Digits("digits", hold_out=0.1, seed=seed) for seed in (0, 1))
    assert torch.equal(one.served("val"), other.served("val"))
    checksum = hashlib.sha256(np.array(one.served("val").tolist(), "<i8").tobytes()).hexdigest()
    assert one.origin() == {"held_out": {"samples": 143, "checksum": checksum}}
    assert Digits("digits").origin() == {}
    assert Digits("digits", hold_out=0.1, limit_train=50).origin() == one.origin()


def test_limits_and_fractions_choose_among_what_is_left():
    held = Digits("digits", hold_out=0.1).served("val")
    limited = Digits("digits", hold_out=0.1, limit_train=259)
    assert (limited.size("train"), limited.size("val")) == (259, 29)  # 259 of 1295, 28.6 of 143
    assert limited.served_labels("val").bincount().max() == 3
    part = Digits("digits", hold_out=0.1, fraction=0.5)
    assert part.size("train") == pytest.approx(1295 / 2, abs=5)
    assert torch.equal(part.served("val"), held)
    assert Digits("digits", hold_out=0.1, limit_train=1).size("val") == 1
    for data in (limited, part):
        assert torch.isin(data.served("val"), held).all()
        assert not torch.isin(data.served("train"), held).any()


def test_chosen_classes_are_those_of_val_too():
    data = Digits("digits", hold_out=0.1, classes=["7", "3"])
    assert data.served_labels("val").unique().tolist() == [0, 1]
    assert torch.isin(data.served("val"), Digits("digits", hold_out=0.1).served("val")).all()


def test_an_index_file_brings_nothing_back_that_is_held_out(tmp_path):
    held = Digits("digits", hold_out=0.1).served("val")
    np.savetxt(tmp_path / "chosen.txt", np.arange(200), fmt="%d")
    data = Digits("digits", hold_out=0.1, index_file=str(tmp_path / "chosen.txt"))
    assert data.served("train").tolist() == [row for row in range(200) if row not in held]
    assert torch.equal(data.served("val"), held)


def test_points_are_held_out_too():
    data = TwoMoons("two_moons", points=40, hold_out=0.25)
    assert torch.equal(data.served_labels("train"), data.arrays("train").labels)
    assert (data.size("train"), data.size("val")) == (30, 10)
    assert data.served_labels("val").bincount().tolist() == [5, 5]


def test_scenes_are_held_out_of_the_whole_split_whatever_the_limit(tmp_path):
    options = {"images": 20, "test_images": 6, "image_size": (16, 32), "root": tmp_path, "hold_out": 0.25}
    for task in ("segmentation", "classification"):
        data = StreetScenes(task=task, **options)
        held = data.served("val")
        limited = StreetScenes(task=task, limit_train=6, limit_test=6, **options)
        assert torch.isin(limited.served("val"), held).all()
        assert not torch.isin(limited.served("train"), held).any()
        assert len(data.presence("val")) == len(held)
        assert torch.equal(torch.cat([data.served("train"), held]).sort().values, torch.arange(20))


def test_val_is_refused_where_there_is_none():
    message = "dataset=digits has no validation part; dataset.hold_out=0.1 makes one of the training samples"
    data = Digits("digits")
    for ask in (data.size, data.served, data.labels, data.served_labels, data.eval_loader):
        with pytest.raises(UserError, match=f"^{message}$"):
            ask("val")


class OwnVal(ArrayDataModule):
    """Ten samples of each split, of which val is its own."""

    has_val = True

    def describe(self):
        return DatasetInfo("own", ("a", "b"), (1, 2, 2), (0.0, 1.0))

    def load(self, split):
        count = {"train": 40, "val": 20, "test": 10}[split]
        return Arrays(torch.full((count, 1, 2, 2), count, dtype=torch.uint8), torch.arange(count) % 2)


def test_pixels_are_no_class_for_each_image(tmp_path):
    data = StreetScenes(task="segmentation", images=6, test_images=6, image_size=(16, 32), root=tmp_path)
    for method in (data.labels, data.whole_labels, data.served_labels):
        with pytest.raises(UserError, match=r"^dataset=street_scenes has a class for each pixel, not a class for each"):
            method("test")
    assert data.sample_facts()["samples"] == 6


def test_a_part_of_the_sets_own_is_val_with_its_own_numbers():
    data = OwnVal("own")
    assert [data.size(split) for split in data.splits] == [40, 20, 10]
    assert torch.equal(data.served("val"), torch.arange(20))
    assert data.arrays("val").images.unique().tolist() == [20]
    assert data.origin() == {}
    assert OwnVal("own", limit_train=4).size("val") == 2
    with pytest.raises(UserError, match=r"^dataset=own has its own validation part; omit dataset.hold_out=0.1$"):
        OwnVal("own", hold_out=0.1).size("train")


def test_prepared_parts_can_be_val(tmp_path):
    given = {f"{kind}_{split}": values for split, count in (("train", 6), ("val", 4), ("test", 2)) for kind, values in (
        ("x", np.full((count, 8, 8), count, np.uint8)), ("y", np.arange(count) % 2))}  # fmt: skip
    np.savez(tmp_path / "mine.npz", **given)
    options = {"root": tmp_path, "path": str(tmp_path / "mine.npz")}
    data = PreparedDataModule("npz", val=["val"], **options)
    assert [data.size(split) for split in data.splits] == [6, 4, 2]
    assert data.arrays("val").images.unique().tolist() == [4]
    assert PreparedDataModule("npz", **options).splits == ("train", "test")
