"""The report without a browser: what it knows of runs, what it makes of hostile and broken ones, and its command."""

import json
import math
import random
import re

import pytest

from trust_exp.cli import run as command
from trust_exp.errors import UserError
from trust_exp.messages import exit_code_of
from trust_exp.results.collect import collect
from trust_exp.results.record import Row, fraction
from trust_exp.results.report import About, render
from trust_exp.results.report import page as page_module
from trust_exp.results.report.curves import curves_of, thin
from trust_exp.results.report.figures import Album
from trust_exp.results.report.page import embed
from trust_exp.results.report.runs import Book, last_lines

ABOUT = About("multirun", (), "2026-03-01T08:00:00+00:00", "here", "0.1.0")
EVIL = "</script><img src=x onerror=alert(1)><!--\u2028&lt;"


def book_of(runs, figures_mb=30.0):
    return Book(collect(runs.runs), figures_mb)


def blocks(page):
    """The JSON of the page, by the id of its script elements."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


# --- curves ----------------------------------------------------------------------------------------------------------


def write_curves(folder, *starts):
    for i, text in enumerate(starts):
        path = folder / "curves" / f"version_{i}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)


def test_a_later_start_replaces_what_it_repeats(tmp_path):
    write_curves(tmp_path, "step,train/loss\n9,4\n19,3\n29,2\n39,9\n", "step,train/loss\n29,2.5\n")
    (curve,) = curves_of(tmp_path)
    assert curve == {"name": "train/loss", "steps": [9, 19, 29], "values": [4.0, 3.0, 2.5], "not_finite": 0}


def test_the_tenth_start_comes_after_the_second(tmp_path):
    write_curves(tmp_path, *(f"step,loss\n9,{i}\n" for i in range(11)))
    assert curves_of(tmp_path)[0]["values"] == [10.0]


def test_columns_have_steps_of_their_own(tmp_path):
    write_curves(tmp_path, "epoch,step,train/loss,val/loss\n0,9,4,\n0,9,,7\n1,19,3,\n")
    found = {curve["name"]: curve["steps"] for curve in curves_of(tmp_path)}
    assert found == {"train/loss": [9, 19], "val/loss": [9]}


def test_what_is_not_finite_is_counted_and_what_is_not_whole_left_out(tmp_path):
    write_curves(tmp_path, "step,loss\n9,nan\n19,inf\n29,2\nrubbish\n39,0.00")  # the last line is being written
    (curve,) = curves_of(tmp_path)
    assert (curve["steps"], curve["values"], curve["not_finite"]) == ([29], [2.0], 2)


def test_odd_files_are_no_curves(tmp_path):
    write_curves(tmp_path, "", "loss\n3\n", "step\n", "\0\0\xff\n", f"step,loss\n{'9' * 200_000},2\n")
    assert curves_of(tmp_path) == []


@pytest.mark.parametrize("n", [1, 4, 200, 201, 1000, 54321])
def test_thinning_keeps_ends_and_extremes(n):
    draw = random.Random(n)
    values = [draw.gauss(0, 1) for _ in range(n)]
    steps, kept = thin(list(range(n)), values, 200)
    assert len(steps) == len(kept) <= 200
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, n - 1)
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert all(values[step] == value for step, value in zip(steps, kept, strict=True))


# --- figures ---------------------------------------------------------------------------------------------------------


def test_equal_figures_are_stored_once_and_cost_nothing(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x" * 300)
    album = Album(500)
    assert [album.add(tmp_path, name)["picture"] for name in ("a.png", "b.png")] == [0, 0]
    assert len(album.pictures) == 1


def test_a_figure_beyond_the_budget_is_named_with_its_path(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x" * 300)
    told = Album(100).add(tmp_path, "a.png")
    assert told["where"] == str(tmp_path / "a.png")
    assert "--figures-mb" in told["why"]


def test_figures_stay_in_the_runs_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    album = Album(1e6)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        assert "outside" in album.add(tmp_path / "run", name)["why"]
    assert album.pictures == []


def test_an_svg_is_shown(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    album = Album(1e6)
    assert album.add(tmp_path, "a.svg")["picture"] == 0
    assert album.pictures[0].startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize(("name", "why"), [("gone.png", "cannot be read"), ("plot.pdf", "no picture")])
def test_what_is_no_picture_is_said(tmp_path, name, why):
    assert why in Album(1e6).add(tmp_path, name)["why"]


def test_the_newest_runs_have_the_budget(runs):
    for seed in range(3):
        runs.write(runs.config(seed=seed), figure=60)
    one = len(book_of(runs).album.pictures[0])
    book = book_of(runs, figures_mb=1.5 * one / 1e6)
    assert ["picture" in detail["figures"][0] for detail in book.details] == [True, False, False]
    assert [run["started"] for run in book.runs] == sorted((run["started"] for run in book.runs), reverse=True)


def test_a_run_with_many_figures_leaves_room_for_those_of_others(runs):
    names = {"two": ["a.png", "b.png"], "none": [], "many": [f"{i}.png" for i in range(8)]}
    for seed, (kind, figures) in enumerate(names.items()):
        folder = runs.write(runs.config(seed=seed), figure=0, figures=figures)
        for name in figures:
            (folder / name).write_bytes(f"{kind} {name}".encode().ljust(300))
    one = len(book_of(runs).album.pictures[0])
    many, none, two = (detail["figures"] for detail in book_of(runs, figures_mb=5 * one / 1e6).details)
    assert [figure["path"] for figure in many] == names["many"]
    assert ["picture" in figure for figure in many] == [True] * 3 + [False] * 5
    assert none == []
    assert ["picture" in figure for figure in two] == [True, True]


# --- what the page knows of runs -------------------------------------------------------------------------------------


def test_the_index_holds_every_number_with_its_interval(runs):
    runs.write(runs.config())
    index = book_of(runs).index()
    (run,) = index["runs"]
    found = {index["measures"][row[0]]["metric"]: row for row in run["rows"]}
    stored = json.loads(next(runs.runs.glob("*/result.json")).read_text())
    assert set(found) == set(stored["metrics"])
    for row in stored["rows"]:
        if "class" not in row["detail"]:
            _, value, low, high, n, how = found[row["metric"]]
            assert value == pytest.approx(row["value"], rel=1e-5)
            assert (low is None) == (row["interval"] is None)
            assert low is None or [low, high] == pytest.approx(row["interval"], rel=1e-5)
            assert (n, index["parts"][how]) == (row["n"], row["detail"].get("how", ""))


def test_runs_that_differ_in_their_seed_share_a_cell_and_parts(runs):
    for seed in range(4):
        runs.write(runs.config(seed=seed))
    runs.write(runs.config(epsilon=1.0))
    index = book_of(runs).index()
    cells = [run["cell"] for run in index["runs"]]
    assert [cells.count(cell) for cell in cells] == [1, 4, 4, 4, 4]
    assert len({run["config"]["model"] for run in index["runs"]}) == 1
    assert "sweep" in index["free"]
    assert "method.epsilon" not in index["free"]


def test_a_configuration_of_a_deleted_schema_is_shown_as_it_is(runs):
    config = runs.config()
    config["method"]["_schema_"] = "trust_exp.methods.gone.config:GoneConfig"
    runs.write(runs.config(seed=1))
    folder = runs.write(runs.config(seed=2))
    stored = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(stored | {"config": config}))
    book = book_of(runs)
    assert book.unreadable == []
    assert book.runs[0]["cell"] == f"run {stored['run_id']}"


@pytest.mark.parametrize(
    "broken",
    [
        {"rows": [{"metric": "clean/accuracy"}]},
        {"rows": None},
        {"seconds": {"fit": "long"}},
        {"config": []},
        {"figures": 3},
        {"environment": 3},
        {"evals": {"clean": None}},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_a_run_that_cannot_be_shown_is_named_and_loses_no_other(runs, broken):
    runs.write(runs.config(seed=0))
    folder = runs.write(runs.config(seed=1))
    stored = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(stored | broken))
    book = book_of(runs)
    assert len(book.runs) == len(book.details) == 1
    (sentence,) = book.unreadable
    assert str(folder) in sentence


def test_what_was_not_measured_is_null_and_inf_a_text(runs):
    runs.write(runs.config(), metrics={"derived/scale": math.nan, "derived/bound": math.inf}, steps=math.nan)
    found = blocks(render(book_of(runs), ABOUT))
    values = {found["index"]["measures"][row[0]]["metric"]: row[1] for row in found["index"]["runs"][0]["rows"]}
    assert (values["derived/scale"], values["derived/bound"]) == (None, "inf")
    assert found["run-0"]["facts"]["steps"] == "nan"


def test_numbers_of_classes_have_their_unit(runs):
    cat, dog = ({"class": name} for name in ("cat", "dog"))
    rows = [fraction("s/accuracy", 1, 2, **cat), fraction("s/accuracy", 0, 0, **dog)]
    rows.append(Row("s/time", 1.5, "seconds", 3, (1.0, 2.0), cat))
    runs.write(runs.config(), rows=[{"suite": "s", **vars(row)} for row in rows])
    detail = blocks(render(book_of(runs), ABOUT))["run-0"]
    assert detail["units"] == {"s/accuracy": "fraction", "s/time": "seconds"}
    assert detail["classes"]["s/time"] == {"cat": [1.5, 1.0, 2.0, 3]}
    assert detail["classes"]["s/accuracy"]["dog"] == [None, None, None, 0]


def test_a_failed_run_says_why(runs):
    runs.fail(runs.config(), "ValueError: no", files={"log.txt": "\x1b[31mred\x1b[0m\nlast\n"})
    (detail,) = book_of(runs).details
    assert detail["traceback"].endswith("ValueError: no")
    assert detail["log"] == "red\nlast"


def test_a_number_that_must_be_0_and_is_not_raises_an_alarm(runs):
    folder = runs.write(runs.config())
    stored = json.loads((folder / "result.json").read_text())
    stored["rows"][-1]["value"] = 3.0
    (folder / "result.json").write_text(json.dumps(stored))
    (alarm,) = book_of(runs).alarms
    assert "autoattack/broken_certificates is 3 and must be 0" in alarm


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"\xff\xfe" + b"".join(b"line %d\n" % i for i in range(100_000)))
    lines = last_lines(tmp_path / "log.txt").splitlines()
    assert (lines[-1], len(lines)) == ("line 99999", 40)
    assert last_lines(tmp_path / "none.txt") == ""


# --- the page --------------------------------------------------------------------------------------------------------


def test_what_is_embedded_is_the_same_json_without_markup():
    text = embed({EVIL: [EVIL, "\ud800", 0.1, None]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {EVIL: [EVIL, "\ud800", 0.1, None]}


def test_hostile_texts_of_a_run_never_become_markup(runs):
    config = runs.config()
    config["recipe"] = EVIL
    runs.fail(config, EVIL, name=EVIL, files={"log.txt": EVIL})
    (runs.runs / "odd<b>").mkdir()
    (runs.runs / "odd<b>" / "config.json").write_text("{}")
    (runs.runs / "odd<b>" / "result.json").write_text("{")
    about = About(EVIL, [EVIL], EVIL, EVIL, "0")
    page = render(book_of(runs), about)
    assert "<img" not in page
    assert "<b>" not in page
    assert page.count("</script>") == page.count("<script")
    assert blocks(page)["index"]["runs"][0]["name"] == EVIL


def test_the_page_carries_all_and_allows_nothing_else(runs):
    runs.write(runs.config())
    page = render(book_of(runs), ABOUT)
    assert not re.search(r"(?:src|href)=[\"']|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_same_runs_give_the_same_page(runs):
    runs.many(12)
    assert render(book_of(runs), ABOUT) == render(book_of(runs), ABOUT)


def test_papers_tables_with_a_number_are_shown_and_an_odd_one_named(runs, monkeypatch):
    class Table:
        def __init__(self, name):
            self.is_empty = name == "empty"

    def fill(name, results):
        if name == "odd":
            raise UserError("odd.yaml is no YAML")
        return Table(name)

    monkeypatch.setattr(page_module.experiments, "names", lambda: ["empty", "odd", "a<b"])
    monkeypatch.setattr(page_module, "fill", fill)
    monkeypatch.setattr(page_module, "to_html", lambda table: "<table></table>")
    runs.write(runs.config())
    page = render(book_of(runs), ABOUT)
    assert re.findall("<article><h2>(.*?)</h2>", page) == ["a&lt;b"]
    assert blocks(page)["index"]["unreadable"] == ["odd.yaml is no YAML"]


# --- the command -----------------------------------------------------------------------------------------------------


def report(runs, *arguments):
    return exit_code_of(lambda: command(["report", "--runs", str(runs), *map(str, arguments)]))


def test_the_command_says_what_it_wrote(runs, tmp_path, capsys):
    runs.write(runs.config())
    runs.fail(runs.config(seed=1), "ValueError: no")
    (runs.runs / "half").mkdir()
    (runs.runs / "half" / "config.json").write_text("{}")
    (runs.runs / "half" / "result.json").write_text('{"schema": 1, "ru')
    out = tmp_path / "page.html"
    assert report(runs.runs, "--out", out) == 0
    told = capsys.readouterr()
    assert re.fullmatch(rf"report:  {out} \(2 runs, 1 failed, \d+\.\d MB\)\n", told.out)
    assert told.err.count("\n") == 1
    assert "half" in told.err
    assert out.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


def test_a_selection_is_kept_and_said(runs, tmp_path, capsys):
    runs.write(runs.config("cll"))
    runs.write(runs.config("lmt"))
    out = tmp_path / "page.html"
    assert report(runs.runs, "method=lmt", "--out", out) == 0
    assert "(1 run, " in capsys.readouterr().out
    assert "<code>method=lmt</code>" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "{tmp}/none/page.html"], "cannot write"),
        (["--out", "{tmp}"], "is a folder"),
        (["--out", "{tmp}/page.pdf"], "--out must end in .html or .htm; got"),
        (["--figures-mb", "-1"], "--figures-mb must be at least 0"),
        (["method=nothing"], "matches none of"),
    ],
)
def test_a_mistake_is_one_sentence(runs, tmp_path, capsys, arguments, sentence):
    runs.write(runs.config())
    assert report(runs.runs, *(text.format(tmp=tmp_path) for text in arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert sentence in told.err
    assert told.err.count("\n") == 1


def test_no_runs_and_no_folder_are_said(tmp_path, capsys):
    assert report(tmp_path / "none") == 2
    (tmp_path / "empty").mkdir()
    assert report(tmp_path / "empty", "--out", tmp_path / "page.html") == 2
    assert "there are no runs in" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_old_one(runs, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    runs.write(runs.config())
    out = tmp_path / "page.html"
    out.write_text("old")
    monkeypatch.setattr("os.replace", fail)
    assert report(runs.runs, "--out", out) == 2
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]
