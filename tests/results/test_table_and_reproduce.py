"""``trust-exp table`` and ``trust-exp reproduce`` as a user meets them."""

import csv
import io
import json
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from tests.waiting import PATIENCE
from trust_exp import cli
from trust_exp.commands import reproduce
from trust_exp.identity import eval_id, run_id
from trust_exp.messages import exit_code_of
from trust_exp.results import experiments
from trust_exp.results.composing import compose_row, composing
from trust_exp.results.record import SCHEMA, Row
from trust_exp.schema import ROOT

TABLE = "cll/figure_4_4"
CRA = "certify/train_accuracy@0.15"
SINGLE = "sat/figure_3_4"  # a figure that is drawn
ENDINGS = ".md, .tex, .csv, .html, .txt, .png, .pdf or .svg"

pytestmark = pytest.mark.usefixtures("rows_composed_once")


@pytest.fixture(scope="module")
def configs():
    table = experiments.read(TABLE)
    with composing():
        return {row.name: compose_row(row, "smoke") for row in table.rows}


def store(runs, config, seed=0, /, **changes):
    config = {**config, "seed": seed}
    folder = runs / f"cll-two_moons-{run_id(config)}"
    folder.mkdir(parents=True)
    evals = {name: {"id": eval_id(node)} for name, node in config["eval"].items()}
    values = {"schema": SCHEMA, "run_id": run_id(config), "name": folder.name, "status": "done", "error": None}
    values |= {"config": config, "metrics": {CRA: 0.25}, "rows": [], "figures": [], "evals": evals}
    (folder / "config.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(values | changes))


@pytest.fixture
def trust_exp(tmp_path, capfd, monkeypatch):
    """Runs a command on runs of the test's own: exit code, what it printed, what it said."""
    monkeypatch.setenv("TRUST_EXP_RUNS", str(tmp_path / "runs"))

    def run(*arguments):
        try:
            code = exit_code_of(lambda: cli.run(list(arguments)))
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return code or 0, captured.out, captured.err

    return run


@pytest.fixture
def swept(monkeypatch):
    """Sweeps are only noted; they end with the code in ``swept.code``."""

    class Swept(list):
        code = 0

    noted = Swept()
    monkeypatch.setattr(reproduce, "sweep", lambda words, _: noted.append(words) or noted.code)
    return noted


# --- table ----------------------------------------------------------------------------------------------------------


def test_table_prints_what_is_stored_and_not_run_for_the_rest(trust_exp, configs, tmp_path):
    store(tmp_path / "runs", configs["cll_eps_0_15"])
    code, out, err = trust_exp("table", TABLE)
    assert (code, err) == (0, "")
    assert "measured*, smoke, n = 1" in out
    assert "-75.0" in out
    assert out.count("not run") == 7


def test_table_in_each_format(trust_exp, configs, tmp_path):
    store(tmp_path / "runs", configs["cll_eps_0_15"])
    for name, sign in (("md", "| --- |"), ("latex", "\\toprule"), ("csv", "table,row,"), ("html", "<table")):
        code, out, _ = trust_exp("table", TABLE, "--format", name)
        assert code == 0
        assert sign in out
    _, out, _ = trust_exp("table", TABLE, "--size", "full", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["state"] for row in rows} == {"not run"}


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("t.md", "| --- |"),
        ("t.tex", "\\toprule"),
        ("t.csv", "table,row,"),
        ("t.html", "<table"),
        ("t.HTML", "<table"),
        ("t.txt", "paper: Losch"),
    ],
)
def test_table_writes_the_format_of_the_ending(trust_exp, tmp_path, name, sign):
    code, out, _ = trust_exp("table", TABLE, "--out", str(tmp_path / name))
    assert (code, out) == (0, f"wrote {tmp_path / name}\n")
    assert sign in (tmp_path / name).read_text()


def test_table_without_a_name_lists_all(trust_exp, configs, tmp_path):
    store(tmp_path / "runs", configs["cll_eps_0_15"])
    code, out, _ = trust_exp("table")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert set(experiments.names()) <= lines.keys()
    assert "1 of 8 rows (smoke)" in lines[TABLE]
    assert "0 of 17 rows" in lines["cll/table_4_2"]


def test_an_odd_result_is_named_and_the_rest_is_shown(trust_exp, configs, tmp_path):
    store(tmp_path / "runs", configs["cll_eps_0_15"])
    store(tmp_path / "runs", configs["cll_eps_0_1"], schema=0)
    gone = json.loads(json.dumps(configs["cll_eps_0_2"]))
    gone["method"]["_schema_"] = "trust_exp.methods.gone.config:Gone"
    store(tmp_path / "runs", {**configs["cll_eps_0_2"]}, config=gone)
    code, out, err = trust_exp("table", TABLE)
    assert code == 0
    assert "measured" in out
    first, second = err.strip().splitlines()
    assert first.startswith("left out: ")
    assert "schema 0" in first
    assert "of a configuration that this version does not know" in second


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table", "cll/table_4"], "the table 'cll/table_4' does not exist; did you mean cll/table_4_"),
        (["table", TABLE, "--size", "huge"], "the size 'huge' does not exist"),
        (["table", TABLE, "nonsense"], "'nonsense' is not key=value"),
        (["table", TABLE, "size=small"], "size=small: use --size instead"),
        (["table", TABLE, "--out", "/nowhere/t.md"], "cannot write /nowhere/t.md: No such file or directory"),
        (["table", "--out", "t.md"], "--format, --out and --size need a table"),
        (
            ["table", TABLE, "--out", "f.png"],
            "cll/figure_4_4 is a table and has no figure; --out may end in .md, .tex, .csv, .html or .txt",
        ),
        (["table", SINGLE, "--out", "f.png", "--format", "md"], "--format md is not a picture format"),
        (["table", SINGLE, "--out", "/nowhere/f.png"], "cannot write /nowhere/f.png: No such file or directory"),
        (["reproduce", TABLE, "--out", "f.png"], "cll/figure_4_4 is a table and has no figure"),
        (["reproduce", SINGLE, "--out", "/nowhere/f.png"], "cannot write /nowhere/f.png: No such file or directory"),
        (["reproduce", SINGLE, "--out", "docs.md/f.png"], "cannot write docs.md/f.png: No such file or directory"),
        *(
            ([command, SINGLE, "--out", name], f"--out must end in {ENDINGS}; got {name}")
            for command in ("table", "reproduce")
            for name in ("f.jpg", "f", "f.pdf.gz")
        ),
        (["table", SINGLE, "--out", "f.svg", "--format", "csv"], "--format csv is not a picture format"),
        (["table", TABLE, "fit.epoch=3"], "did you mean fit.epochs?"),
        (["reproduce", TABLE, "fit.epoch=3"], "did you mean fit.epochs?"),
        (["reproduce", TABLE, "--launcher", "slrum"], "--launcher must be one of"),
        (["reproduce", "cll/nothing"], "the table 'cll/nothing' does not exist"),
        (["reproduce", TABLE, "--size", "smal"], "did you mean small?"),
        (["reproduce", TABLE, "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["reproduce", TABLE, "seed=3"], "seed=3: use --seeds instead"),
        (["reproduce", TABLE, "paths.runs=/tmp"], "for trust-exp reproduce write --runs /tmp"),
        (["reproduce", TABLE, "hydra/launcher=slurm"], "hydra/launcher=slurm: use --launcher instead"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence_and_exit_code_2(trust_exp, swept, arguments, sentence):
    code, out, err = trust_exp(*arguments)
    assert code == 2
    assert sentence in err
    assert err.splitlines()[-1].startswith("error: ")
    assert not out
    assert not swept


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table", TABLE, "--fromat", "md"], "the option '--fromat' does not exist; did you mean --format?"),
        (["list", "fit.epochs=3", "x"], "x is one word too many"),
    ],
    ids=["option", "word"],
)
def test_a_word_that_is_not_understood_is_refused(trust_exp, arguments, sentence):
    code, _, err = trust_exp(*arguments)
    assert code == 2
    assert sentence in err


@pytest.fixture(scope="module")
def single():
    """Configurations of two rows of a figure."""
    with composing():
        rows = {row.name: row for row in experiments.read(SINGLE).rows}
        return {name: compose_row(rows[name], "smoke") for name in ("a_cat", "none")}


def store_single(runs, single):
    metrics = {"a_cat": {"robust/accuracy_a": 0.5, "robust/accuracy_b": 0.25}, "none": {"autoattack/accuracy": 0.0}}
    rows = [Row("robust/class_accuracy", 0.3, detail={"class": name}) for name in ("cat", "truck")]
    classes = [{"suite": "autoattack", **asdict(row)} for row in rows]
    for name, config in single.items():
        store(runs, config, metrics=metrics[name], rows=classes)


@pytest.mark.parametrize(("name", "sign"), [("f.pdf", b"%PDF"), ("f.SVG", b"<?xml"), ("f.png", b"\x89PNG")])
def test_a_figure_has_the_format_of_the_ending(trust_exp, tmp_path, name, sign):
    code, out, _ = trust_exp("table", SINGLE, "--out", str(tmp_path / name))
    assert (code, out) == (0, f"wrote {tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(sign)


def test_a_format_that_is_given_holds_whatever_the_ending(trust_exp, tmp_path):
    code, _, _ = trust_exp("table", TABLE, "--out", str(tmp_path / "t.dat"), "--format", "csv")
    assert code == 0
    assert (tmp_path / "t.dat").read_text().startswith("table,row,")


def test_table_draws_a_figure_of_what_is_stored(trust_exp, single, tmp_path):
    store_single(tmp_path / "runs", single)
    code, out, err = trust_exp("table", SINGLE, "--out", str(tmp_path / "f.png"))
    assert (code, out) == (0, f"wrote {tmp_path / 'f.png'}\n")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert err.startswith("not in the figure, as not measured: a_airplane, a_automobile, a_bird, a_deer, ")
    _, out, _ = trust_exp("table", SINGLE)
    assert "25.0" in out
    assert "-12.8" in out, "less than the 37.8 that are printed"
    assert "-23.0" in out, "of the cell from cat to truck, 53"


def test_reproduce_draws_the_figure_in_the_end(trust_exp, swept, single, tmp_path):
    store_single(tmp_path / "runs", single)
    code, out, _ = trust_exp("reproduce", SINGLE, "--size", "smoke", "--out", str(tmp_path / "f.png"))
    assert code == 0
    assert out.endswith(f"wrote {tmp_path / 'f.png'}\n")
    assert (tmp_path / "f.png").exists()
    assert swept[0][3] == f"+experiments/{SINGLE}=" + ",".join(
        row.name for row in experiments.read(SINGLE).rows if row.name not in single
    )


def test_reproduce_writes_the_table_in_the_end(trust_exp, swept, configs, tmp_path):
    store(tmp_path / "runs", configs["cll_eps_0_15"])
    code, out, _ = trust_exp("reproduce", TABLE, "--size", "smoke", "--out", str(tmp_path / "t.csv"))
    assert code == 0
    assert out.endswith(f"wrote {tmp_path / 't.csv'}\n")
    assert "-0.75" in (tmp_path / "t.csv").read_text()


def test_reproduce_runs_the_rows_of_the_figure_that_another_shows(trust_exp, swept, monkeypatch, single):
    monkeypatch.setattr(reproduce, "compose_row", lambda row, *_: {**single["a_cat"], "model": {"name": row.name}})
    trust_exp("reproduce", "sat/figure_a5", "--size", "smoke")
    assert swept[0][3].startswith("+experiments/sat/figure_3_9=cifar10_hardest_10,")


# --- reproduce ------------------------------------------------------------------------------------------------------


def test_reproduce_runs_all_rows_as_one_sweep(trust_exp, swept):
    code, out, _ = trust_exp("reproduce", TABLE, "--size", "smoke", "--seeds", "2")
    assert code == 0
    (words,) = swept
    assert words[:3] == [sys.executable, str(ROOT / "run.py"), "-m"]
    rows = ",".join(row.name for row in experiments.read(TABLE).rows)
    assert words[3:] == [f"+experiments/{TABLE}={rows}", "seed=0,1", "size=smoke"]
    assert "not run" in out


def test_reproduce_leaves_out_what_is_done(trust_exp, swept, configs, tmp_path):
    for name, config in configs.items():
        if name.startswith("cll"):
            store(tmp_path / "runs", config)
        if name == "gloro_eps_0_2":
            store(tmp_path / "runs", config, evals={})  # trained, but lacks what the row asks for
        if name == "gloro_eps_0_25":
            store(tmp_path / "runs", config, status="failed")
    trust_exp("reproduce", TABLE, "--size", "smoke")
    assert swept[0][3] == f"+experiments/{TABLE}=gloro_eps_0_1,gloro_eps_0_15,gloro_eps_0_2,gloro_eps_0_25"
    assert "seed=0" in swept[0]
    trust_exp("reproduce", TABLE, "--size", "smoke", "--seeds", "2")
    assert "seed=0,1" in swept[1]


def test_reproduce_runs_nothing_when_nothing_is_missing(trust_exp, swept, configs, tmp_path):
    for config in configs.values():
        store(tmp_path / "runs", config)
    code, out, err = trust_exp("reproduce", TABLE, "--size", "smoke")
    assert (code, list(swept)) == (0, [])
    assert "all 8 runs of cll/figure_4_4 at size smoke are done" in err
    assert out.count("measured*, smoke") == 8


def test_overrides_and_options_come_in_any_order(trust_exp, swept):
    changes = ["accelerator=cpu", "hydra.launcher.workers=1"]
    trust_exp("reproduce", TABLE, "--size", "smoke", *changes, "--launcher", "process")
    trust_exp("reproduce", "--size", "smoke", TABLE, changes[0], "--launcher", "process", changes[1])
    assert swept[0] == swept[1]
    assert swept[0][5:] == ["size=smoke", "hydra/launcher=process", *changes]


def test_options_of_the_launcher_go_to_the_sweep(trust_exp, swept):
    changes = ["hydra.launcher.partition=gpu", "+hydra.launcher.additional_parameters={gres: gpu}"]
    code, _, err = trust_exp("reproduce", TABLE, "--size", "smoke", "--launcher", "slurm", *changes)
    assert code == 0, err
    assert swept[0][5:] == ["size=smoke", "hydra/launcher=slurm", *changes]


def test_reproduce_says_what_cannot_run(trust_exp, swept, monkeypatch):
    for module in ("composing", "comparison"):
        name = f"trust_exp.results.{module}.missing_choices"
        monkeypatch.setattr(name, lambda row: f"model '{row.name}' does not exist")
    code, out, err = trust_exp("reproduce", "cll/table_4_1")
    assert code == 2
    assert not swept
    assert "soc_lipconv_10 cannot run yet: model 'soc_lipconv_10' does not exist" in err
    assert err.splitlines()[-1] == "error: no row of cll/table_4_1 can run yet; the table says why"
    assert "39.8" in out, "the table is printed all the same"


def test_two_rows_of_one_experiment_are_run_once(monkeypatch, configs):
    table = experiments.read(TABLE)
    monkeypatch.setattr(reproduce, "compose_row", lambda *_: configs["cll_eps_0_1"])
    assert list(reproduce.runnable(table, "smoke", [])) == [table.rows[0].name]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_reproduce_ends_with_the_code_of_its_sweep_after_the_table(trust_exp, swept, code):
    swept.code = code
    got, out, _ = trust_exp("reproduce", TABLE, "--size", "smoke")
    assert got == code
    assert "not run" in out


CHILD = """
import signal, sys
def stop(number, frame):
    print("told", number, flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""
PARENT = """
import sys
from pathlib import Path
from trust_exp.commands.reproduce import sweep
code = sweep([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
print("code", code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_reproduce_stops_its_sweep_and_is_waited_for(tmp_path, number):
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert out.split() == ["told", str(int(number)), "code", "130"]
    assert err.startswith(f"TRUST_EXP_RUNS={tmp_path} ")


def test_a_killed_sweep_has_the_code_of_a_shell(tmp_path):
    assert reproduce.sweep(["sh", "-c", "kill -9 $$"], tmp_path) == 137
    assert reproduce.sweep(["sh", "-c", 'test "$TRUST_EXP_RUNS" = "$0" && exit 3', str(tmp_path)], tmp_path) == 3


def test_they_import_no_torch(imported_by):
    words = (["table"], ["table", TABLE], ["table", SINGLE], ["table", "--help"], ["reproduce", "--help"])
    for command, imported in imported_by(*(["trust_exp.cli", *given] for given in words)).items():
        assert "trust_exp.results.experiments" in imported
        assert not imported & {"torch", "lightning", "matplotlib", "wandb", "scipy", "sklearn"}, command


@pytest.mark.slow
def test_a_figure_is_reproduced_and_the_second_time_nothing_runs(tmp_path):
    def reproduced():
        command = [
            sys.executable,
            "-m",
            "trust_exp.cli",
            "reproduce",
            TABLE,
            "--size",
            "smoke",
            "--runs",
            str(tmp_path),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)

    first, again = reproduced(), reproduced()
    assert first.returncode == again.returncode == 0
    assert "8 jobs" in first.stdout + first.stderr
    assert first.stdout.count("measured*, smoke, n = 1") == 8
    assert "all 8 runs" in again.stderr
    assert again.stdout.count("measured*, smoke, n = 1") == 8
