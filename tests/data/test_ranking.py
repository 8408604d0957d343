"""Files of rankings: read back as written, refused in a sentence when they cannot be meant."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust_exp.data.digits import Digits
from trust_exp.data.ranking import (
    FORMAT,
    check_fits,
    class_means,
    class_order,
    ranked,
    read_ranking,
    write_ranking,
)
from trust_exp.errors import UserError

DATA = {"name": "digits", "samples": 6, "labels": "ab", "source": {"files": {"a": 1}}}


def ranking(scores=(0.5, 2.0, -1.0, 2.0), index=(3, 5, 0, 1)):
    return ranked("entropy", np.array(index), np.array(scores), DATA, "0123456789")


def changed(path, **values):
    with np.load(path) as arrays:
        kept = {**arrays}
    facts = json.loads(str(kept["facts"]))
    facts.update(values.pop("facts", {}))
    np.savez(path, **{**kept, "facts": np.array(json.dumps(facts)), **values})


def test_a_ranking_is_read_as_it_was_written_and_needs_no_pickle(tmp_path):
    path = tmp_path / "rankings" / "entropy.npz"
    write_ranking(path, ranking())
    assert [file.name for file in path.parent.iterdir()] == ["entropy.npz"]
    found = read_ranking(path)
    assert found.index.tolist() == [1, 5, 3, 0], "the hardest first; of equal ones the lower index"
    assert found.score.tolist() == [2.0, 2.0, 0.5, -1.0]
    assert (found.measure, found.run, found.dataset) == ("entropy", "0123456789", DATA)
    with np.load(path, allow_pickle=False) as arrays:
        assert {name: array.dtype.kind for name, array in arrays.items()} == {"index": "i", "score": "f", "facts": "U"}


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=50), st.randoms())
def test_the_order_depends_on_the_scores_and_not_on_how_they_came(scores, random):
    index = list(range(len(scores)))
    random.shuffle(index)
    found = ranked("svar", np.array(index), np.array(scores)[index], DATA)
    assert sorted(found.index.tolist()) == list(range(len(scores)))
    assert found.index.tolist() == sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert found.score.tolist() == sorted(scores, reverse=True)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 scores of entropy are not finite"):
        ranking(scores=(0.5, np.nan, 1.0, 1.0))


def test_what_is_no_file_or_no_ranking_is_refused(tmp_path):
    path = tmp_path / "svar.npz"
    with pytest.raises(UserError, match=r"ranking .*svar.npz does not exist; a run with .*method.difficulty=\[svar\]"):
        read_ranking(path)
    path.write_text("entropy")
    with pytest.raises(UserError, match="not a ranking, or is truncated"):
        read_ranking(path)
    np.savez(path, index=np.arange(3))
    with pytest.raises(UserError, match="is not a ranking that a run wrote"):
        read_ranking(path)
    np.savez(path, index=np.arange(3), score=np.ones(3), facts=np.array({"format": FORMAT}, dtype=object))
    with pytest.raises(UserError, match=r"is not a ranking that a run wrote .*allow_pickle"):
        read_ranking(path)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "entropy.npz"
    write_ranking(path, ranking())
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"entropy.npz is not a ranking"):
            read_ranking(path)


def test_damage_inside_a_file_is_seen(tmp_path):
    path = tmp_path / "entropy.npz"
    write_ranking(path, ranking())
    content = bytearray(path.read_bytes())
    place = content.index(np.array([1, 5, 3, 0]).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is not a ranking that a run wrote .*CRC"):
        read_ranking(path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"index": np.array([1, 5, 5, 0])}, "ranks sample 5 2 times; write it again"),
        ({"index": np.array([1, 6, 3, 0])}, "ranks sample 6, but its data have the samples 0 to 5"),
        ({"index": np.array([1, -2, 3, 0])}, "ranks sample -2, but its data have the samples 0 to 5"),
        ({"index": np.array([1, 5, 3])}, r"it has int64 \(3,\) and float64 \(4,\)"),
        ({"index": np.array([1.0, 5, 3, 0])}, r"it has float64 \(4,\)"),
        ({"score": np.array([2.0, 0.5, 2.0, -1.0])}, "its scores must not increase"),
        ({"score": np.array([2.0, np.nan, 0.5, -1.0])}, "its scores must not increase"),
        ({"index": np.zeros(0, np.int64), "score": np.zeros(0)}, "ranks no sample"),
        ({"facts": {"format": "trust_exp ranking 9"}}, "has the format 'trust_exp ranking 9'; this version reads"),
        ({"facts": {"dataset": {}}}, "is not a ranking that a run wrote"),
        ({"facts": {"dataset": None}}, "is not a ranking that a run wrote"),
    ],
    ids=str,
)
def test_what_is_inside_must_be_a_ranking(tmp_path, values, sentence):
    path = tmp_path / "entropy.npz"
    write_ranking(path, ranking())
    changed(path, **values)
    with pytest.raises(UserError, match=sentence) as error:
        read_ranking(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("name", "mnist"), ("samples", 7), ("labels", "cd")])
def test_a_ranking_of_other_data_is_refused(key, value):
    check_fits(ranking(), {**DATA, "source": {}})  # where they came from is told, not compared
    with pytest.raises(UserError, match=f"run 0123456789 was made for other data: its {key} is {DATA[key]!r}, here"):
        check_fits(ranking(), {**DATA, key: value})


def test_the_facts_of_data_are_of_the_whole_split_whatever_is_served(tmp_path):
    whole = Digits(name="digits").sample_facts()
    assert whole["samples"] == 1438
    for choice in ({"limit_train": 100}, {"classes": ["3", "1"]}, {"fraction": 0.5, "seed": 3}):
        assert Digits(name="digits", **choice).sample_facts() == whole
    some = Digits(name="digits", classes=["3", "1"])
    arrays, labels = some.arrays("train"), some.labels("train")
    assert (labels[arrays.index] == arrays.labels).all()
    assert int((labels >= 0).sum()) == len(arrays)


def test_classes_are_ordered_by_the_mean_of_their_samples():
    labels = np.array([2, 0, 0, 1, -1, 2])
    found = ranking(scores=(0.5, 2.0, -1.0, 2.0, 100.0), index=(3, 5, 0, 1, 4))
    assert class_means(found, labels, 3).tolist() == [2.0, 0.5, 0.5]
    assert class_order(found, labels, "abc", np.arange(3)).tolist() == [0, 1, 2], (
        "of equal classes the lower number comes first"
    )
    assert np.isnan(class_means(found, labels, 4)[3])
    with pytest.raises(UserError, match="has no sample of the class d"):
        class_order(found, labels, "abcd", np.arange(4))
