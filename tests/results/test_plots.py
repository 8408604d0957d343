"""Figures of papers: from stored runs to what is drawn, and the picture."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from trust_exp.errors import UserError
from trust_exp.results import comparison, experiments, plots
from trust_exp.results.collect import Found
from trust_exp.results.comparison import Cell, Number, TableRow
from trust_exp.results.plots import Curve, Figure, Matrix, Panel, Point, plot
from trust_exp.viz.curves import draw_curves

DESCRIPTION = """
title: Share and size
source: Paper, Fig. 1
columns: {clean/accuracy: Clean (%), robust/accuracy_a: Robust A (%), robust/accuracy_b: Robust B (%), speed: Speed}
rows: [hard, random, full]
figure:
  x: share (%)
"""
ROW = """# @package _global_
# a row
defaults: [{{override /method: standard}}, {{override /dataset: digits}}, {{override /eval: [clean]}}, _self_]
{series}
method: {{optimizer: {{lr: '{rate}'}}}}
paper: {{row: "{row}", group: {group}, curve: {curve}{more}}}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A figure of the test's own on real configurations, and the runs of its rows."""
    folder = tmp_path / "paper" / "figure_1"
    folder.mkdir(parents=True)
    (tmp_path / "paper" / "figure_1.yaml").write_text(DESCRIPTION)
    series = "series: {percent: [90, 10], rate: [0.9, 0.1], printed: [0.5, null]}"
    point = ", x: '${series.percent}'"
    printed = point + ", values: {clean/accuracy: '${series.printed}'}"
    for name, curve, more in (("hard", "hardest", printed), ("random", "random", point)):
        rate = "${series.rate}" if name == "hard" else "${series.percent}"
        text = ROW.format(
            series=series, rate=rate, row=f"{curve}, ${{series.percent}} %", group="Digits", curve=curve, more=more
        )
        (folder / f"{name}.yaml").write_text(text)
    (folder / "full.yaml").write_text(
        ROW.format(series="", rate=0.5, row="full", group="Digits", curve="full", more="")
    )
    monkeypatch.setattr(experiments, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(comparison, "compose_row", lambda row, size, *_, **__: config(row, size))
    return tmp_path / "paper"


def config(row, size):
    """A configuration of a row in the place of Hydra's, which looks for rows in the checkout alone."""
    schema = "trust_exp.methods.standard.config:StandardConfig"
    method = {"_schema_": schema, "_target_": "x", "name": "standard", "optimizer": {"lr": len(row.name)}}
    parts = {"mode": "train", "seed": 0, "size": size, "recipe": "r", "eval": {}, "references": {}}
    # the name of the row stands for what makes it this row
    return {**parts, "method": method, "dataset": {"name": "digits"}, "model": {"name": row.name}}


def run(own, name, seed=0, size="small", rows=(), facts=None, watched=(), **metrics):
    row = next(row for row in experiments.read("paper/figure_1").rows if row.name == name)
    metrics = {key.replace("__", "/"): value for key, value in metrics.items()}
    values = {
        "run_id": f"{name}{seed}{size}",
        "status": "done",
        "config": {**config(row, size), "seed": seed},
        "evals": {},
    }
    more = {"metrics": metrics, "rows": list(rows), "facts": facts or {}, "watched": list(watched)}
    return Found(Path(values["run_id"]), {**values, **more})


def panels_of(figure):
    return [panel for row in figure.panels for panel in row]


def of_class(metric, **numbers):
    return [
        {"suite": "s", "metric": metric, "value": value, "detail": {"class": name}} for name, value in numbers.items()
    ]


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_points_of_a_curve_are_means_in_the_order_of_x(own):
    results = [run(own, "hard_90", seed, clean__accuracy=value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    results += [run(own, "hard_10", clean__accuracy=0.25), run(own, "full", clean__accuracy=0.95, speed=7.0)]
    figure = plot("paper/figure_1", results)
    clean = panels_of(figure)[0]
    (curve,) = clean.curves
    assert (clean.label, clean.kind, curve.label) == ("Clean (%)", "lines", "hardest")
    assert [point.x for point in curve.points] == [10.0, 90.0]
    assert curve.points[0].measured == Number(25.0, None, 1)
    assert curve.points[1].measured.mean == pytest.approx(80.0)
    assert curve.points[1].measured.std == pytest.approx(10.0)
    assert [point.paper for point in curve.points] == [None, Number(50.0, None, 1)]
    (level,) = clean.levels
    assert (level.label, level.points[0].measured.mean) == ("full", 95.0)
    speed = panels_of(figure)[3]
    assert speed.levels[0].points[0].measured.mean == 7.0, "no percentage"
    assert figure.missing == ["random_90", "random_10"]


def test_what_is_missing_of_what_size_and_over_how_many_seeds_is_said(own):
    results = [run(own, "hard_90", seed, clean__accuracy=0.5) for seed in range(2)] + [
        run(own, "full", clean__accuracy=0.5)
    ]
    notes = plot("paper/figure_1", results).notes
    assert notes[0] == "2 of 5 rows measured, size=small, n = 1 to 2; ± standard deviation over seeds"
    assert notes[1] == "no comparison with the paper: size small: less data or fewer steps than the paper"
    assert notes[2] == "reported: Paper, Fig. 1"
    assert plot("paper/figure_1", []).notes[0] == "0 of 5 rows measured"


def test_a_figure_is_of_one_size_the_one_with_most_rows(own):
    results = [run(own, "full", size="full", clean__accuracy=0.9)]
    results += [run(own, name, clean__accuracy=0.5) for name in ("hard_10", "hard_90", "full")]
    figure = plot("paper/figure_1", results)
    assert "size=small" in figure.notes[0]
    assert panels_of(figure)[0].levels[0].points[0].measured.mean == 50.0
    assert "1 of 5 rows measured, size=full" in plot("paper/figure_1", results, "full").notes[0]


def describe(own, panels):
    text = DESCRIPTION + f"  panels: {panels}\n"
    (own / "figure_1.yaml").write_text(text)


def test_panels_may_hold_several_metrics_and_levels_of_another(own):
    describe(own, "[[{y: [robust/accuracy_a, robust/accuracy_b], level: clean/accuracy, kind: bars, title: t}]]")
    results = [
        run(own, "hard_10", robust__accuracy_a=0.5, robust__accuracy_b=0.25),
        run(own, "full", clean__accuracy=0.9),
    ]
    (panel,) = panels_of(plot("paper/figure_1", results))
    assert (panel.label, panel.title, panel.kind) == ("Robust (%)", "t", "bars")
    assert [curve.label for curve in panel.curves] == ["Robust A, hardest", "Robust B, hardest"]
    assert [(level.label, level.points[0].measured.mean) for level in panel.levels] == [("full", 90.0)]


def test_numbers_of_classes_as_bars_and_as_a_matrix(own):
    describe(
        own, "[[{y: m, kind: classes, label: M (%)}, {y: m, kind: matrix, label: M (%)}, {y: speed, group: Digits}]]"
    )
    first, second = of_class("m", cat=0.2, dog=0.4), of_class("m", cat=0.4, dog=0.4)
    results = [run(own, "hard_10", 0, rows=first, speed=1), run(own, "hard_10", 1, rows=second, speed=2)]
    classes, matrix, speed = panels_of(plot("paper/figure_1", results))
    (curve,) = classes.curves
    assert [(point.x, round(point.measured.mean, 6)) for point in curve.points] == [("cat", 30.0), ("dog", 40.0)]
    assert matrix.matrix.columns == ["cat", "dog"]
    assert matrix.matrix.rows == ["90", "10", "90", "10"], "of both curves"
    rows = dict(zip(matrix.matrix.rows[:2], matrix.matrix.measured[:2], strict=True))
    assert [round(number.mean, 6) for number in rows["10"]] == [30.0, 40.0]
    assert rows["90"] == [None, None]
    assert speed.curves[0].points[0].measured == Number(1.5, pytest.approx(0.7071068), 2)


def test_a_row_as_a_curve_over_what_stands_after_the_at(own):
    text = DESCRIPTION.replace("{clean/accuracy: Clean (%),", "{m@10: M (%), m@2: M (%), clean/accuracy: Clean (%),")
    (own / "figure_1.yaml").write_text(text + "  panels: [[{y: [m@10, m@2], kind: at, label: M (%)}]]\n")
    results = [run(own, "random_10", **{"m@10": 0.5, "m@2": 0.25}), run(own, "full", **{"m@2": 1.0})]
    (panel,) = panels_of(plot("paper/figure_1", results))
    assert (panel.kind, panel.label, [curve.label for curve in panel.curves]) == ("lines", "M (%)", ["random", "full"])
    first, second = panel.curves
    assert [(point.x, point.measured.mean) for point in first.points] == [(2.0, 25.0), (10.0, 50.0)]
    assert [point.x for point in second.points if point.measured] == [2.0]


@pytest.fixture
def over_epochs(own):
    """The figure with a row that is a curve over epochs."""
    text = ROW.format(series="", rate=0.3, row="watched", group="Digits", curve="while trained", more=", x: epoch")
    (own / "figure_1" / "watched.yaml").write_text(text)
    return own


def after(epoch, split="test", **metrics):
    metrics = {key.replace("__", "/"): value for key, value in metrics.items()}
    return {"epoch": epoch, "step": 10 * epoch, "split": split, "metrics": metrics}


def trained(panel):
    """The curves of that row: those of the others stand beside them."""
    return {curve.label: curve.points for curve in panel.curves if "while trained" in curve.label}


def test_a_row_over_epochs_is_the_mean_of_what_its_seeds_have_watched(over_epochs):
    describe(over_epochs, "[[{y: clean/accuracy}, {y: speed}]]")
    seeds = [(0.2, 0.4), (0.4, 0.8), (0.6,)]
    results = [
        run(over_epochs, "watched", seed, watched=[after(2 * at + 1, clean__accuracy=v) for at, v in enumerate(values)])
        for seed, values in enumerate(seeds)
    ]
    results.append(run(over_epochs, "full", clean__accuracy=0.95))
    figure = plot("paper/figure_1", results)
    clean, speed = panels_of(figure)
    assert clean.kind == "lines"
    assert trained(clean).keys() == {"while trained"}
    first, second = trained(clean)["while trained"]
    assert (first.x, first.paper, first.measured.n) == (1.0, None, 3)
    assert (first.measured.mean, first.measured.std) == (pytest.approx(40.0), pytest.approx(20.0))
    assert (second.x, second.measured.n, second.measured.mean) == (3.0, 2, pytest.approx(60.0))
    assert second.measured.std == pytest.approx(np.std([40.0, 80.0], ddof=1))
    assert [level.label for level in clean.levels] == ["full"]
    assert trained(speed) == {}
    assert figure.notes[0] == "2 of 6 rows measured, size=small, n = 1 to 3; ± standard deviation over seeds"


def test_splits_are_curves_of_their_own_and_a_repeated_epoch_counts_once(over_epochs):
    describe(over_epochs, "[[{y: [clean/accuracy, speed], label: all}]]")
    watched = [after(1, clean__accuracy=0.1), after(1, clean__accuracy=0.3), after(1, speed=5.0)]
    watched += [after(2, "val", clean__accuracy=0.5), after(2, clean__accuracy=float("nan")), after(2)]
    (panel,) = panels_of(plot("paper/figure_1", [run(over_epochs, "watched", watched=watched)]))
    found = {label: [(point.x, point.measured) for point in points] for label, points in trained(panel).items()}
    assert found == {
        "Clean, while trained": [(1.0, Number(0.3, None, 1))],
        "Clean, while trained (val)": [(2.0, Number(0.5, None, 1))],
        "Speed, while trained": [(1.0, Number(5.0, None, 1))],
    }


def test_a_row_over_epochs_is_missing_where_nothing_was_watched(over_epochs):
    result = run(over_epochs, "watched", clean__accuracy=0.5)
    for watched in ([], None):
        result.values["watched"] = watched
        figure = plot("paper/figure_1", [result])
        assert "watched" in figure.missing
        assert trained(panels_of(figure)[0]) == {}
    del result.values["watched"]
    assert "watched" in plot("paper/figure_1", [result]).missing


def test_the_class_of_a_row_beside_the_others(own):
    describe(own, "[[{y: difficulty/entropy, kind: own, label: Entropy}, {y: speed}]]")
    told = {"difficulty": {"entropy": {"classes": {"10": 2.0, "a": 1.0, "b": 3.0}}}}
    panel, _ = panels_of(plot("paper/figure_1", [run(own, "hard_10", facts=told, speed=1)]))
    own_, others = panel.curves
    assert own_.points == [Point("10", Number(2.0, None, 1), None)]
    assert others.points[0].measured == Number(2.0, pytest.approx(2**0.5), 2)


def test_a_printed_number_of_a_class_stands_in_its_cell(own, monkeypatch):
    row = TableRow("r", "A = {cat}", {"m[dog]": Cell(Number(0.5, None, 1))}, x="cat")
    matrix = plots._matrix([plots._Member(row, {"cat": Number(20.0, None, 1)})], "m", 100.0)
    assert matrix == Matrix(["cat"], ["cat", "dog"], [[Number(20.0, None, 1), None]], [[None, Number(50.0, None, 1)]])


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        ("{}", "figure must have x"),
        ("{x: X, y: Y}", "figure must have x, and panels if it needs them"),
        ("{x: X, panels: []}", "figure.panels must be a list of rows of panels"),
        ("{x: X, panels: [[{y: nothing}]]}", "there is no column nothing to draw"),
        ("{x: X, panels: [[{y: speed, level: none}]]}", "there is no column none to draw"),
        ("{x: X, panels: [[{y: speed, kind: pie}]]}", "must be one of lines, at, bars, classes, own, matrix; got"),
        ("{x: X, panels: [[{y: speed, group: Else}]]}", "no row is of the group 'Else'; there are Digits"),
        ("{x: X, panels: [[{y: speed, kind: matrix}]]}", "of the kind matrix needs a label, and one metric"),
        ("{x: X, panels: [[{y: [speed], kind: at}]]}", "of the kind at needs metrics that end in @<number>"),
        ("{x: X, panels: [[{title: t}]]}", "a panel must have y"),
    ],
)
def test_a_layout_that_is_wrong_is_named(own, figure, sentence):
    text = DESCRIPTION.partition("figure:")[0]
    (own / "figure_1.yaml").write_text(f"{text}figure: {figure}\n")
    with pytest.raises(UserError, match=r"figure_1\.yaml") as raised:
        experiments.read("paper/figure_1")
    assert sentence in str(raised.value)


def test_a_table_is_not_drawn():
    sentence = "sat/table_3_3 is a table and has no figure: its description has no part 'figure'"
    with pytest.raises(UserError, match=sentence):
        plot("sat/table_3_3", [])


# --- the picture ----------------------------------------------------------------------------------------------------


def number(mean, std=None, n=1):
    return Number(mean, std, n)


def figure_of(*panels, notes=("2 of 2 rows measured",)):
    return Figure("Title", "share (%)", [list(panels)], list(notes), [])


def line(label, *points):
    return Curve(label, [Point(float(x), measured, paper) for x, measured, paper in points])


def pixels(path):
    return (image.imread(path)[..., :3] * 255).round().astype(int)


def of_colour(picture, colour, slack=8):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - rgb).max(-1) <= slack).sum())


def test_each_curve_has_its_colour_and_what_is_not_measured_none(tmp_path):
    measured = line("hard", (10, number(20.0, 2.0, 3), None), (90, number(60.0, 2.0, 3), None))
    printed = line("easy", (10, None, number(30.0)), (90, None, number(50.0)))
    picture = pixels(
        draw_curves(tmp_path / "a" / "f.png", figure_of(Panel("t", "Robust (%)", "lines", [measured, printed])))
    )
    assert of_colour(picture, "#0b6e99") > 300
    diamonds = of_colour(picture, "#d9730d")
    assert 0 < diamonds < of_colour(picture, "#0b6e99"), "printed numbers are marks, no line"
    assert picture.shape[1] < 1000


def test_a_panel_without_numbers_says_so(tmp_path):
    empty = draw_curves(tmp_path / "e.png", figure_of(Panel("t", "Robust (%)", "lines"), notes=()))
    told = Panel("t", "Robust (%)", "lines", [line("a", (10, number(1.0), None))])
    assert (
        pixels(empty) != pixels(draw_curves(tmp_path / "t.png", figure_of(told, notes=())))[: len(pixels(empty))]
    ).any()


def test_bars_matrices_and_levels_are_drawn(tmp_path):
    bars = Panel(
        "bars",
        "Robust (%)",
        "bars",
        [Curve("A", [Point("cat", number(50.0, 5.0, 2), None), Point("dog", None, number(20.0))])],
        [Curve("without", [Point(0.0, number(1.0), number(2.0))])],
    )
    matrix = Matrix(
        ["cat", "dog"], ["cat", "dog"], [[number(50.0), None], [number(10.0), number(40.0)]], [[None] * 2] * 2
    )
    picture = pixels(draw_curves(tmp_path / "m.png", figure_of(bars, Panel("m", "", "matrix", matrix=matrix))))
    assert of_colour(picture, "#0b6e99") > 3000, "a bar"
    assert of_colour(picture, "#787774") > 100, "a level"
    assert of_colour(picture, "#d9730d") > 200, "frames around what is attacked"


@pytest.mark.parametrize("name", ["sat/figure_3_4", "sat/figure_3_7", "sat/figure_3_11", "sat/figure_a4"])
def test_a_figure_of_the_thesis_is_drawn_even_without_runs(tmp_path, name):
    figure = plot(name, [])
    assert len(figure.missing) == len(experiments.read(name).rows)
    path = draw_curves(tmp_path / "f.png", figure)
    assert path.stat().st_size > 5000
