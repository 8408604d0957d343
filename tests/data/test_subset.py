import hashlib
import re

import numpy as np
import pytest
import torch

from trust_exp.data.batch import Arrays, DatasetInfo
from trust_exp.data.digits import Digits
from trust_exp.data.provenance import split_facts
from trust_exp.data.subset import Subset, balanced_fraction, long_tail, read_index, write_index
from trust_exp.errors import UserError

INFO = DatasetInfo("animals", ("cat", "dog", "7", "emu"), (3, 4, 4), (0.0, 1.0))
LABELS = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 1, 1])
FACTS = split_facts("animals", LABELS.numpy())


def test_without_a_choice_everything_is_served():
    assert Subset().rows("train", LABELS, INFO).tolist() == list(range(10))
    assert Subset().narrow(INFO) is INFO


@pytest.mark.parametrize(
    ("classes", "names", "rows"),
    [
        (["emu", "cat"], ("emu", "cat"), [0, 3, 4, 7]),
        (["1"], ("dog",), [1, 6, 8, 9]),
        (["7"], ("7",), [2, 5]),  # a name comes before a number
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_chosen_by_name_or_number_in_both_splits(classes, names, rows, split):
    subset = Subset(classes)
    assert subset.narrow(INFO).classes == names
    assert subset.rows(split, LABELS, INFO).tolist() == rows


TENS = DatasetInfo("ages", ("10", "20", "30", "2"), (3, 4, 4), (0.0, 1.0))


def test_among_classes_that_are_numbers_a_number_is_a_name():
    assert Subset(["2", "10"]).narrow(TENS).classes == ("2", "10")
    with pytest.raises(UserError, match=r"the class of dataset=ages '1' does not exist; .*here are: 10, 2, 20, 30"):
        Subset(["1"]).narrow(TENS)


def test_a_class_is_found_in_both_forms_of_unicode():
    info = DatasetInfo("places", ("caf\u00e9", "bar"), (3, 4, 4), (0.0, 1.0))
    assert Subset(["cafe\u0301"]).narrow(info).classes == ("caf\u00e9",)


def test_chosen_classes_are_numbered_anew_and_samples_keep_their_index():
    subset = Subset(["emu", "cat"])
    arrays = Arrays(torch.arange(10).float().unsqueeze(1), LABELS).select(subset.rows("train", LABELS, INFO))
    served = subset.renumber(arrays, INFO)
    assert served.labels.tolist() == [1, 0, 0, 1]
    assert served.index.tolist() == served.images.squeeze(1).tolist() == [0, 3, 4, 7]


@pytest.mark.parametrize(
    ("suffix", "write"), [(".npy", np.save), (".txt", lambda path, rows: np.savetxt(path, rows, "%d"))]
)
def test_an_index_file_chooses_training_samples_only(tmp_path, suffix, write):
    path = tmp_path / f"chosen{suffix}"
    write(path, np.array([8, 2, 3]))
    subset = Subset(index_file=path)
    assert subset.rows("train", LABELS, INFO).tolist() == [2, 3, 8]
    assert len(subset.rows("test", LABELS, INFO)) == 10


def test_the_same_part_of_each_class_is_kept_and_at_least_one_sample():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2])
    kept = balanced_fraction(labels, 0.3)
    assert labels[kept].bincount().tolist() == [3, 6, 1]
    assert kept.tolist() == [0, 1, 2, *range(10, 16), 30]  # the first of each


def test_choices_add_up_and_a_limit_comes_last(tmp_path):
    np.save(tmp_path / "chosen.npy", np.arange(0, 1438, 2))
    choices = {"classes": ["3", "8"], "index_file": str(tmp_path / "chosen.npy"), "fraction": 0.5}
    all_of_them, few = Digits("digits", **choices), Digits("digits", **choices, limit_train=10)
    labels = Digits("digits").arrays("train").labels
    arrays = all_of_them.arrays("train")
    assert all_of_them.info.classes == ("3", "8")
    assert set(labels[arrays.index].tolist()) == {3, 8}
    assert (arrays.index % 2 == 0).all()
    assert few.arrays("train").labels.bincount().tolist() == [5, 5]
    assert torch.isin(few.arrays("train").index, arrays.index).all()
    batch = next(iter(few.eval_loader("train")))
    assert torch.equal(batch.index, few.arrays("train").index)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": ["cow"]}, "the class of dataset=animals 'cow' does not exist"),
        ({"classes": ["4"]}, "dataset.classes names class 4; there are 0 to 3"),
        ({"classes": ["cat", "0"]}, "dataset.classes names a class twice: ['cat', '0']"),
    ],
)
def test_a_class_that_is_not_there_is_named(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Subset(**given).narrow(INFO)


def test_classes_of_dense_data_cannot_be_chosen():
    with pytest.raises(UserError, match="needs a class for each image; dataset=animals has"):
        Subset(["cat"]).rows("train", torch.zeros(2, 4, 4, dtype=torch.int8), INFO)


def test_an_empty_choice_is_refused(tmp_path):
    np.save(tmp_path / "chosen.npy", np.array([0]))
    with pytest.raises(UserError, match="no train sample of dataset=animals is left"):
        Subset(["emu"], tmp_path / "chosen.npy").rows("train", LABELS, INFO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\nx\n", "cannot be read as whole numbers, one a line"),
        ("10\n", "names sample 10; there are 0 to 9"),
        ("-1\n", "names sample -1; there are 0 to 9"),
        ("", "names no sample"),
        ('# samples of {"name: 1}\n1\n', "the facts about its data in the first line are not JSON"),
        ("1 2\n3 4\n", "must hold whole numbers; it has int64 (2, 2)"),
    ],
)
def test_a_wrong_index_file_is_named(tmp_path, content, message):
    path = tmp_path / "chosen.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_index(path, FACTS)
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_index(tmp_path / "missing.npy", FACTS)
    np.save(tmp_path / "floats.npy", np.zeros(3))
    with pytest.raises(UserError, match="must hold whole numbers; it has float64"):
        read_index(tmp_path / "floats.npy", FACTS)


def test_pickled_index_files_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_index(tmp_path / "objects.npy", FACTS)


def test_an_index_file_that_was_written_for_other_data_is_refused(tmp_path):
    path = tmp_path / "chosen.txt"
    write_index(path, torch.tensor([8, 2]), FACTS)
    assert read_index(path, FACTS).tolist() == [8, 2]
    with pytest.raises(UserError, match="for other data: its name is 'animals', here it is 'birds'"):
        read_index(path, split_facts("birds", LABELS.numpy()))
    with pytest.raises(UserError, match=r"its labels is '.*'; make one for these data"):
        Subset(index_file=path).rows("train", LABELS.flip(0), INFO)
    path.write_text(path.read_text().replace('"samples": 10', '"samples": 11'))
    with pytest.raises(UserError, match="its samples is 11, here it is 10"):
        read_index(path, FACTS)
    path.write_text("# samples of nothing\n1\n")
    with pytest.raises(UserError, match="cannot be read as whole numbers, one a line"):
        read_index(path, FACTS)
    path.write_text("# my own choice\n1\n")
    assert read_index(path, FACTS).tolist() == [1], "a plain file is believed"


def test_facts_are_of_all_labels_in_their_order():
    labels = np.arange(3000, dtype=np.int16) % 7
    expected = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    assert split_facts("animals", labels) == {"name": "animals", "samples": 3000, "labels": expected}
    boxes = np.zeros((3000, 4), np.float32)
    with_boxes = split_facts("animals", labels, boxes)
    assert with_boxes["labels"] == hashlib.sha256(labels.astype("<i8").tobytes() + boxes.tobytes()).hexdigest()
    boxes[2999, 3] = 1
    assert split_facts("animals", labels, boxes) != with_boxes


def test_a_long_tail_keeps_the_first_of_each_class():
    labels = torch.arange(100).repeat(10) % 4
    kept = long_tail(labels, 8.0)
    assert labels[kept].bincount().tolist() == [250, 125, 62, 31]  # 250, 125, 62.5, 31.25
    assert kept[labels[kept] == 3].tolist() == (labels == 3).nonzero().squeeze(1)[:31].tolist()
    assert long_tail(labels, 1.0).tolist() == list(range(1000))
    assert labels[long_tail(labels, 1e6)].bincount().min() == 1


def test_a_long_tail_comes_after_the_limit_and_follows_the_order_of_the_classes():
    def counts(**given):
        data = Digits("digits", imbalance=5.0, **given)
        assert len(data.arrays("test")) == 359 or "classes" in given, "the test set stays as it is"
        return data.arrays("train").labels.bincount().tolist()

    assert counts(limit_train=300) == [30, 25, 21, 18, 15, 12, 10, 9, 7, 6]
    first, last = counts(classes=["7", "1"])
    assert (first, last) == (Digits("digits").arrays("train").labels.eq(7).sum(), 29)
