"""Files that make several rows, as the tables read them and as Hydra does."""

import os

import pytest
from hydra import compose
from hydra.core.object_type import ObjectType

from hydra_plugins.trust_exp.searchpath import ExperimentsSource
from trust_exp.compose import composing
from trust_exp.errors import UserError
from trust_exp.results import series
from trust_exp.schema import ROOT

SERIES = """# @package _global_
# a row for each seed
series:
  seed: [3, 0.5, Cat-Dog]
  robust: [0.25, null, 1]
seed: ${series.seed}
text: seed ${series.seed} of ${series.robust}, ${fit.epochs}
inner: {list: ['${series.seed}', 7], nothing: null, robust: '${series.robust}'}
paper: {row: r}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "many.yaml").write_text(SERIES)
    (tmp_path / "one.yaml").write_text("paper: {row: r}\n")
    return tmp_path


def test_each_row_has_its_own_values_in_their_types(folder):
    rows = series.rows_of(folder / "many.yaml")
    assert list(rows) == ["many_3", "many_0_5", "many_cat_dog"]
    assert rows["many_3"] == {
        "seed": 3,
        "text": "seed 3 of 0.25, ${fit.epochs}",
        "inner": {"list": [3, 7], "nothing": None, "robust": 0.25},
        "paper": {"row": "r"},
    }
    assert rows["many_0_5"]["inner"] == {"list": [0.5, 7], "nothing": None}, "a key without a value is left out"
    assert series.rows_of(folder / "one.yaml") == {"one": {"paper": {"row": "r"}}}


def test_rows_are_found_by_name_and_a_series_is_none(folder):
    assert [name for _, name, _ in series.rows_in(folder)] == ["many_3", "many_0_5", "many_cat_dog", "one"]
    path, content = series.find_row(folder, "many_cat_dog")
    assert (path.name, content["seed"]) == ("many.yaml", "Cat-Dog")
    assert series.find_row(folder, "one")[0].name == "one.yaml"
    for name in ("many", "many_4", "on", "two"):
        assert series.find_row(folder, name) is None
    assert series.find_row(folder / "nowhere", "one") is None


def test_a_file_that_changes_is_read_anew(folder):
    path = folder / "many.yaml"
    assert len(series.rows_of(path)) == 3
    path.write_text("series: {seed: [1, 2]}\npaper: {row: r}\n")
    os.utime(path, ns=(1, 1))
    assert list(series.rows_of(path)) == ["many_1", "many_2"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("series: 3\n", "series must hold lists"),
        ("series: {a: []}\n", "series must hold lists"),
        ("series: {a: [1, 2], b: [1]}\n", r"must have the same length; got a 2, b 1"),
        ("series: {a: [0.1, 0-1]}\n", "must differ, as they name the rows"),
        ("series: {a: [1]}\nb: ${series.c}\n", "series has no c; it has a"),
        ("series: [\n", "is not valid YAML"),
        ("- 1\n", "does not hold keys and values"),
    ],
)
def test_a_series_that_is_wrong_is_named(tmp_path, text, sentence):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence) as raised:
        list(series.rows_in(tmp_path))
    assert "bad.yaml" in str(raised.value)


def test_two_files_must_not_make_the_same_row(tmp_path):
    (tmp_path / "a.yaml").write_text("series: {n: [b_1]}\n")
    (tmp_path / "a_b.yaml").write_text("series: {n: [1]}\n")
    with pytest.raises(UserError, match=r"a_b\.yaml and .*a\.yaml both define the row a_b_1"):
        list(series.rows_in(tmp_path))


def test_hydra_sees_rows_and_no_series():
    source = ExperimentsSource("test", f"experiments://{ROOT}")
    group = "experiments/sat/table_3_3"
    assert source.list(group, ObjectType.CONFIG) == ["sat", "trades_12_0", "trades_1_0", "trades_24_0", "trades_6_0"]
    assert source.is_config(f"{group}/trades_6_0")
    assert source.is_config(f"{group}/sat.yaml")
    assert not source.is_config(f"{group}/trades")
    assert source.load_config(f"{group}/trades_6_0").header == {"package": "_global_"}
    assert "table_3_3" in source.list("experiments/sat", ObjectType.GROUP)
    assert "table_3_3" not in source.list(group, None)


def test_a_row_of_a_series_is_composed_as_a_file_would_be():
    with composing():
        config = compose("config", ["+experiments/sat/table_3_3=trades_24_0", "fit.epochs=3"])
    assert (config.method.name, config.method.beta, config.fit.epochs) == ("trades", 24.0, 3)
    assert "series" not in config
