"""The rows under experiments/: what they choose, what they quote, and how stored runs fill them."""

import copy
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException

from hydra_plugins.trust_exp.searchpath import ExperimentsSource
from trust_exp.compose import check, composing
from trust_exp.errors import UserError
from trust_exp.identity import cell_id, eval_id, run_id
from trust_exp.messages import sentence_for
from trust_exp.models.config import DeepNetConfig
from trust_exp.results import experiments
from trust_exp.results.collect import Found
from trust_exp.results.comparison import Number, classes_of, fill, is_whole, value_of
from trust_exp.results.composing import compose_row
from trust_exp.schema import CONF, ROOT, find_schema

TABLES = {name: experiments.read(name) for name in experiments.names()}
ROWS = [(name, row) for name, table in TABLES.items() if name.startswith("cll/") for row in table.rows]
each_row = pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}/{row.name}" for name, row in ROWS])
# To compose them all takes a while: one of each method and model of each table now, the rest is for the slow tests.
SAMPLE = {(name, *map(row.choices.get, ("method", "model"))): (name, row.name) for name, row in ROWS}.values()
each_row_to_compose = pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(
            *item,
            id=f"{item[0]}/{item[1].name}",
            marks=() if (item[0], item[1].name) in SAMPLE else pytest.mark.slow,
        )
        for item in ROWS
    ],
)

pytestmark = pytest.mark.usefixtures("rows_composed_once")

# What table B.5, B.6, B.7 print as the average and standard deviation of nine seeds, in the order of their lines.
AVERAGES = {
    "table_b5/4c3f": "77.3 ± 0.2, 61.0 ± 0.2, 44.2 ± 0.3, 29.1 ± 0.2, 72.1 ± 0.2, 80.2 ± 0.7",
    "table_b5/6c2f": "77.6 ± 0.2, 61.3 ± 0.2, 43.5 ± 0.1, 27.7 ± 0.3, 709.3 ± 5.3, 77.6 ± 0.8",
    "table_b5/lipconv_20": "77.4 ± 0.3, 64.2 ± 0.2, 49.5 ± 0.2, 36.7 ± 0.3, 35.8 ± 0.2, 85.6 ± 0.5",
    "table_b5/cpl_xl": "78.8 ± 0.1, 65.9 ± 0.1, 51.6 ± 0.1, 38.1 ± 0.2, 34.5 ± 0.1, 80.4 ± 0.5",
    "table_b5/sll_xl": "73.0 ± 0.1, 65.5 ± 0.1, 57.8 ± 0.2, 51.0 ± 0.1, 59.4 ± 1.6, 88.0 ± 0.5",
    "table_b6/lipconv_20": "48.2 ± 0.4, 35.1 ± 0.3, 25.3 ± 0.3, 18.3 ± 0.3, 45.4 ± 0.2, 84.3 ± 0.7",
    "table_b6/cpl_xl": "47.9 ± 0.2, 36.3 ± 0.2, 28.1 ± 0.3, 21.5 ± 0.1, 42.0 ± 0.1, 78.7 ± 0.7",
    "table_b6/sll_xl": "46.9 ± 0.3, 36.6 ± 0.2, 29.0 ± 0.1, 23.4 ± 0.2, 1.3 ± 0.1, 80.1 ± 1.1",
    "table_b7/8c2f_eps_0_5": "39.8 ± 0.1, 25.9 ± 0.3, 16.5 ± 0.1, 10.7 ± 0.1, 288.3 ± 1.9, 64.2 ± 0.5",
    "table_b7/8c2f_eps_1_0": "33.5 ± 0.3, 25.3 ± 0.2, 19.0 ± 0.2, 13.8 ± 0.2, 24.4 ± 0.1, 72.8 ± 1.0",
    "table_b7/lipconv_10": "32.4 ± 0.5, 25.0 ± 0.3, 18.4 ± 0.5, 13.3 ± 0.7, 6.7 ± 0.4, 82.5 ± 1.2",
    "table_b7/lipconv_20": "32.6 ± 0.5, 26.0 ± 0.2, 20.2 ± 0.2, 15.5 ± 0.4, 4.9 ± 0.4, 84.3 ± 1.4",
}
# Where the printed average is not that of the nine printed values: what it is of them.
MISPRINTS = {
    ("table_b5/4c3f", "certify/accuracy@0.141"): 61.43,
    ("table_b5/cpl_xl", "certify/lipschitz"): 34.58,
    ("table_b6/sll_xl", "certify/lipschitz"): 1.24,
    ("table_b7/8c2f_eps_0_5", "certify/tightness"): 64.32,
}
# The rows of tables 4.1 and 4.2 that say what a row of B.5 to B.7 says.
SAME = {
    "table_4_1/cll_8c2f_eps_0_5": "table_b7/8c2f_eps_0_5",
    "table_4_1/cll_8c2f_eps_1_0": "table_b7/8c2f_eps_1_0",
    "table_4_1/cll_lipconv_20": "table_b7/lipconv_20",
    "table_4_2/cifar10_cll_4c3f": "table_b5/4c3f",
    "table_4_2/cifar10_cll_6c2f": "table_b5/6c2f",
    "table_4_2/cifar10_cll_lipconv_20": "table_b5/lipconv_20",
    "table_4_2/cifar10_cll_cpl_xl": "table_b5/cpl_xl",
    "table_4_2/cifar10_cll_sll_xl": "table_b5/sll_xl",
    "table_4_2/cifar100_cll_lipconv_20": "table_b6/lipconv_20",
    "table_4_2/cifar100_cll_cpl_xl": "table_b6/cpl_xl",
    "table_4_2/cifar100_cll_sll_xl": "table_b6/sll_xl",
}


def row_of(path):
    table, _, name = path.partition("/")
    (row,) = [row for row in TABLES[f"cll/{table}"].rows if row.name == name]
    return row


def numbers(value):
    return value if isinstance(value, list) else [value]


def shown(metric, value):
    return value if metric in ("certify/lipschitz", "derived/loss_lipschitz") else 100 * value


# --- the files ------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_thesis_are_there():
    counts = {name: len(table.rows) for name, table in TABLES.items() if name.startswith("cll/")}
    assert counts == {
        "cll/figure_4_4": 8,
        "cll/table_4_1": 10,
        "cll/table_4_2": 17,
        "cll/table_4_3": 25,
        "cll/table_b5": 5,
        "cll/table_b6": 3,
        "cll/table_b7": 4,
    }


@each_row_to_compose
def test_a_row_composes_unless_it_chooses_what_does_not_exist(name, row):
    lines = (experiments.EXPERIMENTS / name / f"{row.name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    with composing():
        if lost := experiments.missing_choices(row):
            assert set(re.findall(r"(\w+) '", lost)) <= {"method", "dataset", "model"}
            with pytest.raises(MissingConfigException) as raised:
                compose("config", [f"+experiments/{name}={row.name}"])
            assert "does not exist" in str(sentence_for(raised.value))
        else:
            for size in ("full", "smoke"):
                checked = compose_row(row, size)
                assert checked["size"] == size
                assert_measures(name, checked)
            assert checked["fit"]["epochs"] is None
            assert checked["fit"]["steps"] == smoke_steps(checked), "the row and its size do not fight"


def smoke_steps(checked):
    """The steps at smoke size: few for networks that are slow on a CPU, one pass for ordinary training."""
    model = checked["model"]
    if issubclass(find_schema(model["_schema_"]), DeepNetConfig) or model["name"] == "conv_8c2f":
        return 2
    return 5 if checked["method"]["name"] == "standard" else 20


def assert_measures(name, checked):
    """Every column that a row's evals give is of a radius and a split that they are asked for."""
    radii = {f"{radius:.3g}" for radius in checked["eval"]["certify"]["radii"]}
    for metric in TABLES[name].columns:
        suite, _, rest = metric.partition("/")
        assert suite == "derived" or suite in checked["eval"]
        if "@" in rest:
            assert rest.partition("@")[2] in radii
            assert ("train" in checked["eval"]["certify"]["splits"]) or not rest.startswith("train_")


@each_row
def test_a_row_lacks_nothing_but_its_data(name, row):
    """Rows that wait for a data set alone are right already: they have a recipe, and compose on other data."""
    if experiments.missing_choices(row) != f"dataset {row.choices['dataset']!r} does not exist":
        pytest.skip("it can run, or waits for more than its data")
    assert (CONF / "recipe" / row.choices["method"] / f"{row.choices['dataset']}.yaml").exists()
    with composing():
        checked = check(compose("config", [f"+experiments/{name}={row.name}", "dataset=mnist"]))
    assert checked["model"]["name"] == row.choices["model"]
    assert_measures(name, checked)


@pytest.mark.parametrize("name", TABLES)
def test_row_names_need_no_quotes_in_a_sweep(name):
    rows = [row.name for row in TABLES[name].rows]
    (override,) = OverridesParser.create().parse_overrides([f"+experiments/{name}={','.join(rows)}"])
    assert (list(override.sweep_string_iterator()) if len(rows) > 1 else [override.value()]) == rows


# --- the numbers ----------------------------------------------------------------------------------------------------


@each_row
def test_the_numbers_are_possible(name, row):
    values = row.paper.values
    for metric, value in values.items():
        for number in numbers(value):
            assert 0 < number <= 1 or (shown(metric, 1) == 1 and 0 < number < 1000)
    by_radius = [metric for metric in values if "@" in metric]
    accuracies = [values["clean/accuracy"]] if "clean/accuracy" in values else []
    accuracies += [values[metric] for metric in by_radius]
    for at_less, at_more in pairwise(accuracies):
        for less, more in zip(numbers(at_less), numbers(at_more), strict=True):
            assert less > more


@each_row
def test_the_printed_constant_of_the_loss_follows_from_the_rows_settings(name, row):
    """K = logit(1 - p) / epsilon with p = err_quantile / 2; holds the settings against the numbers (Eq. 4.5)."""
    text = (experiments.EXPERIMENTS / name / f"{row.name}.yaml").read_text()
    printed = row.paper.values.get("derived/loss_lipschitz")
    found = {key: re.search(rf"^  {key}: (\S+)$", text, re.MULTILINE) for key in ("epsilon", "err_quantile")}
    if printed is None or not all(found.values()):
        pytest.skip("it prints none, or leaves the settings to its recipe")
    epsilon, p = float(found["epsilon"][1]), float(found["err_quantile"][1]) / 2
    constant = (math.log1p(-p) - math.log(p)) / epsilon
    if f"{name}/{row.name}" in ("cll/table_4_3/p_0_05_eps_0_5", "cll/table_4_3/p_0_005_eps_0_15"):
        assert 0.05 < printed - constant < 0.08, "misprints"
        assert f"gives {constant:.1f}" in row.paper.note
    else:
        assert constant == pytest.approx(printed, abs=0.0501)


@pytest.mark.parametrize("path", AVERAGES)
def test_nine_seeds_average_to_what_is_printed(path):
    printed = [float(text.partition(" ± ")[0]) for text in AVERAGES[path].split(", ")]
    row = row_of(path)
    assert len(row.paper.values) == 6
    for (metric, nine), average in zip(row.paper.values.items(), printed, strict=True):
        assert len(nine) == 9
        mean = shown(metric, sum(nine) / 9)
        if misprint := MISPRINTS.get((path, metric)):
            assert mean == pytest.approx(misprint, abs=0.005)
            assert abs(mean - average) > 0.05
            assert f"{average}" in row.paper.note, "the row's note says so"
        else:
            assert mean == pytest.approx(average, abs=0.0501)


@pytest.mark.parametrize("path", AVERAGES)
def test_nine_seeds_spread_as_is_printed(path):
    """The paper does not say which deviation it prints; all are within 0.1 of the sample's."""
    for (metric, nine), text in zip(row_of(path).paper.values.items(), AVERAGES[path].split(", "), strict=True):
        spread = shown(metric, Number.of(nine).std)
        assert spread == pytest.approx(float(text.partition(" ± ")[2]), abs=0.11)


@pytest.mark.parametrize(("path", "seeds"), SAME.items())
def test_the_main_tables_print_the_means_of_the_appendix(path, seeds):
    row, nine = row_of(path), row_of(seeds)
    assert row.choices == nine.choices
    for metric, values in nine.paper.values.items():
        printed, mean = shown(metric, row.paper.values[metric]), shown(metric, sum(values) / 9)
        if (path, metric) == ("table_4_2/cifar10_cll_4c3f", "clean/accuracy"):
            assert (printed, round(mean, 1)) == (pytest.approx(77.6), 77.3), "they differ, and the notes say so"
            assert "77.3" in row.paper.note
            assert "77.6" in nine.paper.note
            continue
        tolerance = 0.501 if metric == "certify/tightness" else 0.101  # tightness has no decimals there
        assert printed == pytest.approx(mean, abs=tolerance), metric


def test_one_cell_of_table_4_3_is_seed_1_of_table_b7():
    cell, nine = row_of("table_4_3/p_0_01_eps_0_5").paper.values, row_of("table_b7/8c2f_eps_0_5").paper.values
    for metric in ("clean/accuracy", "certify/accuracy@0.424"):
        assert cell[metric] == nine[metric][0]
    assert (cell["certify/accuracy@0.141"], nine["certify/accuracy@0.141"][0]) == (0.259, 0.255)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of experiments of the test's own."""
    (tmp_path / "paper" / "table_1").mkdir(parents=True)
    (tmp_path / "paper" / "table_1.yaml").write_text(
        "title: T\nsource: S\ncolumns: {clean/accuracy: Clean (%)}\nrows: [b]\n"
    )
    for name in "ab":
        (tmp_path / "paper" / "table_1" / f"{name}.yaml").write_text(
            f"# @package _global_\n# {name}\npaper:\n  row: {name}\n  values: {{clean/accuracy: 0.5}}\n"
        )
    monkeypatch.setattr(experiments, "EXPERIMENTS", tmp_path)
    return tmp_path / "paper"


def test_rows_come_in_the_order_given_then_by_name(own):
    assert [row.name for row in experiments.read("paper/table_1").rows] == ["b", "a"]


def test_an_unknown_table_is_said_with_the_nearest():
    with pytest.raises(UserError, match="the table 'cll/table_42' does not exist; did you mean cll/table_4_2"):
        experiments.read("cll/table_42")


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("table_1.yaml", "title: T\n", "lacks columns, source"),
        ("table_1.yaml", "- 1\n", "does not hold keys and values"),
        ("table_1.yaml", "title: [\n", "is not valid YAML"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: {}\nsorce: x\n", "sorce means nothing here"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: {a: A}\nrows: [c]\n", "names c, which is not in"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: {a: A}\nruns_of: paper/t\n", "runs_of must name another table"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: {clean/accuracy: A}\nfigure: {}\n", "figure must have x"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: {}\n", "columns must name metrics and their labels"),
        ("table_1.yaml", "title: T\nsource: S\ncolumns: [a]\n", "columns must name metrics and their labels"),
        ("table_1/a.yaml", "method: {}\n", "needs a part 'paper'"),
        ("table_1/a.yaml", "paper: {rov: a}\n", "needs a part 'paper'"),
        ("table_1/a.yaml", "paper: {row: a, values: {clean/accuracy: high}}\n", "must be a number or a list"),
        ("table_1/a.yaml", "paper: {row: a, values: {clean/accuracy: []}}\n", "must be a number or a list"),
        ("table_1/a.yaml", "paper: {row: a, values: {clean/acuracy: 0.5}}\n", "has no column clean/acuracy"),
    ],
)
def test_a_file_that_is_wrong_is_named(own, file, text, sentence):
    (own / file).write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        experiments.read("paper/table_1")
    assert Path(file).name in str(raised.value)


# --- filling --------------------------------------------------------------------------------------------------------

TABLE, ROW = "cll/figure_4_4", "cll_eps_0_15"
CRA = "certify/train_accuracy@0.15"


@pytest.fixture(scope="module")
def configs():
    row = row_of(f"figure_4_4/{ROW}")
    with composing():
        return {size: compose_row(row, size) for size in ("full", "small", "smoke")}


def result(config, seed=0, status="done", **metrics):
    config = {**copy.deepcopy(config), "seed": seed}
    evals = {name: {"id": eval_id(node), "config": node} for name, node in config["eval"].items()}
    values = {"run_id": run_id(config), "status": status, "config": config, "evals": evals, "metrics": metrics}
    return Found(Path(f"cll-two_moons-{values['run_id']}"), values)


def measured(results, **given):
    return next(row for row in fill(TABLE, results, **given).rows if row.name == ROW)


def test_nothing_is_measured_without_results():
    table = fill(TABLE, [])
    assert table.is_empty
    assert {row.state for row in table.rows} == {"not run"}
    assert measured([]).cells[CRA].paper == Number(1.0, None, 1)
    states = {row.name: row.state for row in fill("cll/table_4_2", []).rows}
    assert states["cifar10_gloro_6c2f"] == "not run"
    assert states["cifar10_soc_lipconv_20"].startswith("not run, cannot yet: method 'soc' does not exist")


def test_seeds_are_averaged_with_the_sample_deviation(configs):
    results = [result(configs["full"], seed, **{CRA: value}) for seed, value in ((2, 0.9), (0, 1.0), (1, 0.98))]
    row = measured(results)
    cell = row.cells[CRA]
    assert cell.measured.mean == pytest.approx(0.96)
    assert cell.measured.std == pytest.approx(0.0529150)
    assert cell.measured.n == 3
    assert cell.difference == pytest.approx(-0.04)
    assert (row.state, row.size, row.reserve, row.seeds) == ("", "full", "", (0, 1, 2))
    assert row.runs == tuple(results[i].id for i in (1, 2, 0))
    assert row.cells["certify/lipschitz"].measured is None
    assert not fill(TABLE, results).is_empty


def test_only_its_own_finished_runs_count(configs):
    other = copy.deepcopy(configs["full"])
    other["method"]["decay"] = 1e-3
    metrics = {CRA: 0.9}
    others = [result(other, **metrics), *(result(configs["full"], status=s, **metrics) for s in ("failed", "running"))]
    assert measured(others).state == "not run"
    elsewhere = copy.deepcopy(configs["full"])
    elsewhere["paths"]["runs"], elsewhere["accelerator"]["kind"], elsewhere["paper"] = "/else", "gpu", None
    assert measured([*others, result(elsewhere, **metrics)]).cells[CRA].measured.n == 1


def test_the_fullest_size_is_shown_and_anything_less_is_marked(configs):
    results = [result(configs[size], **{CRA: value}) for size, value in (("smoke", 0.1), ("small", 0.5))]
    row = measured(results)
    assert (row.size, row.cells[CRA].measured.mean) == ("small", 0.5)
    assert row.reserve == "size small: less data or fewer steps than the paper"
    assert measured(results, size="smoke").size == "smoke"
    assert measured(results, size="full").state == "not run"
    results.append(result(configs["full"], **{CRA: 1.0}))
    assert (measured(results).size, measured(results).reserve) == ("full", "")
    with pytest.raises(UserError, match="the size 'smal' does not exist; did you mean small"):
        fill(TABLE, results, size="smal")


def test_a_size_without_the_tables_metrics_does_not_hide_one_that_has_them(configs):
    results = [result(configs["full"], **{"speed/images": 3.0}), result(configs["small"], **{CRA: 0.5})]
    assert measured(results).size == "small"


def test_a_number_of_another_eval_setting_is_marked(configs):
    odd = result(configs["full"], **{CRA: 0.9, "derived/loss_lipschitz": 9.0})
    odd.values["evals"]["certify"]["id"] = "0000000000"
    row = measured([odd, result(configs["full"], 1, **{CRA: 1.0})])
    assert row.cells[CRA].aside
    assert not row.cells["derived/loss_lipschitz"].aside, "no eval measures it"
    assert not is_whole(odd, configs["full"])
    assert is_whole(result(configs["full"]), configs["full"])


def test_an_override_is_said_beside_what_it_changes(configs):
    changed = copy.deepcopy(configs["full"])
    changed["fit"]["epochs"] = 3
    results = [result(changed, **{CRA: 0.7}), result(configs["full"], **{CRA: 1.0})]
    row = measured(results, overrides=["fit.epochs=3"])
    assert (row.cells[CRA].measured.mean, row.reserve) == (0.7, "changed: fit.epochs=3")
    row = measured(results, overrides=["accelerator.threads=2", "hydra.launcher.workers=1"])
    assert (row.cells[CRA].measured.mean, row.reserve) == (1.0, ""), "they change nothing of what comes out"


def test_the_later_of_two_results_of_a_seed_counts(configs):
    row = measured([result(configs["full"], 0, **{CRA: 0.5}), result(configs["full"], 0, **{CRA: 0.75})])
    assert row.cells[CRA].measured == Number(0.75, None, 1)


def test_a_configuration_that_is_no_longer_known_is_named_and_nothing_else_lost(configs):
    good = result(configs["full"], **{CRA: 1.0})
    broken = [result(configs["full"], seed, **{CRA: 0.5}) for seed in (1, 2, 3, 4)]
    broken[0].values["config"]["method"]["_schema_"] = "trust_exp.methods.gone.config:Gone"
    broken[1].values["config"]["method"]["_schema_"] = "trust_exp.config:Gone"
    del broken[2].values["config"]["dataset"]
    broken[3].values["metrics"][CRA] = None
    table = fill(TABLE, [*broken, good])
    row = next(row for row in table.rows if row.name == ROW)
    assert row.cells[CRA].measured == Number(1.0, None, 1)
    assert len(table.unreadable) == 3
    for found, sentence in zip(broken, table.unreadable, strict=False):
        assert str(found.folder) in sentence


def test_a_table_may_show_other_columns_of_the_runs_of_another(own):
    (own / "table_2.yaml").write_text("title: T\nsource: S\ncolumns: {robust: Robust}\nruns_of: paper/table_1\n")
    shown = experiments.read("paper/table_2")
    assert (shown.name, shown.table) == ("paper/table_2", "paper/table_1")
    assert {(row.table, row.name) for row in shown.rows} == {("paper/table_1", "a"), ("paper/table_1", "b")}
    assert [row.paper.values for row in shown.rows] == [{}, {}], "the printed numbers are of the other's columns"
    assert experiments.read("paper/table_1").rows[0].paper.values == {"clean/accuracy": 0.5}


def test_a_number_of_one_class_is_a_metric_of_its_own(configs):
    found = result(configs["full"])
    found.values["rows"] = [
        {"suite": "autoattack", "metric": "robust/class_accuracy", "value": value, "detail": {"class": name}}
        for name, value in (("cat", 0.25), ("dog", 0.5))
    ]
    found.values["facts"] = {"difficulty": {"entropy": {"classes": {"cat": 1.5}}}}
    assert value_of(found, "robust/class_accuracy[dog]") == 0.5
    assert value_of(found, "difficulty/entropy[cat]") == 1.5
    assert value_of(found, "robust/class_accuracy[bird]") is None
    assert value_of(found, "robust/class_accuracy") is None


def test_the_same_cell_of_two_tables_is_one_experiment():
    """Table 4.2 and B.5 share their runs; here on data that exist."""
    with composing():
        ids = {
            cell_id(check(compose("config", [f"+experiments/{row}", "dataset=mnist"])))
            for row in ("cll/table_4_2=cifar10_cll_4c3f", "cll/table_b5=4c3f")
        }
    assert len(ids) == 1


def test_nothing_but_experiments_becomes_a_group_of_hydra():
    """Hydra walks every group for --help; the checkout holds its virtual environment and all runs."""
    source = ExperimentsSource("test", f"experiments://{ROOT}")
    assert source.available()
    assert not source.list("", None)
    assert source.is_group("experiments/cll")
    assert source.is_config("experiments/cll/table_4_2/cifar10_cll_4c3f")
    assert "table_4_2" in source.list("experiments/cll", ObjectType.GROUP)
    assert (ROOT / "docs").is_dir()
    assert not source.is_group("docs")
    assert not source.is_config("conf/config")


def test_classes_of_which_nothing_was_measured_have_no_number():
    """A class without anomalies has an AUROC of nan, which result.json holds as null."""
    rows = [
        {"metric": "anomaly/class_auroc", "value": value, "detail": {"class": name}}
        for name, value in (("0", 0.75), ("1", None))
    ]
    run = Found(Path("nearest"), {"run_id": "a", "metrics": {}, "rows": rows, "facts": {"difficulty": None}})
    assert classes_of(run, "anomaly/class_auroc") == {"0": 0.75}
    assert value_of(run, "anomaly/class_auroc[1]") is None
    assert classes_of(run, "difficulty/loss") == {}
