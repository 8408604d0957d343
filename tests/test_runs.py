"""Run folders: found, compared, locked, written whole."""

import fcntl
import json
import math

import pytest

from trust_exp.errors import UserError
from trust_exp.results.record import Record, Row, fraction
from trust_exp.runs import (
    Run,
    find_run,
    forget,
    lock,
    open_run,
    put_back,
    restart,
    set_aside,
    with_stored_overrides,
    write_json,
)


@pytest.fixture
def two_runs(tmp_path, composed):
    overrides = ["method=cll", "eval=[clean]", "seed=3"]
    for name in ("cll-digits-0123456789", "cll-digits-0123abcdef"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"overrides": overrides, "config": composed(*overrides)})
    return tmp_path


def test_find_by_id_name_or_beginning(two_runs):
    for name in ("0123456789", "cll-digits-0123456789", "01234", "multirun/cll-digits-0123456789"):
        assert find_run(two_runs, name).id == "0123456789"
    with pytest.raises(UserError, match="fits 2 runs"):
        find_run(two_runs, "0123")
    with pytest.raises(UserError, match=r"there is no such run in .* \(it holds 2 runs\)"):
        find_run(two_runs, "ffff")
    with pytest.raises(UserError, match="no such run"):
        find_run(two_runs / "nowhere", "0123456789")


def test_evaluation_starts_from_the_overrides_of_the_run(two_runs, monkeypatch):
    monkeypatch.setenv("TRUST_EXP_RUNS", str(two_runs))
    monkeypatch.setenv("TRUST_EXP_DATA", "data")
    arguments = ["mode=eval", "run=01234", "eval=[certify]"]
    assert with_stored_overrides(arguments) == ["method=cll", "seed=3", *arguments]
    assert with_stored_overrides(["method=cll"]) == ["method=cll"]
    with pytest.raises(UserError, match="leave out seed=4"):
        with_stored_overrides([*arguments, "seed=4"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda stored: stored.pop("overrides"), "lacks overrides"),
        (lambda stored: stored["config"].pop("method"), "method must be chosen"),
        (lambda stored: stored["config"]["method"].update(epsilon="much"), "method.epsilon must be a number"),
        (lambda stored: stored["config"]["model"].update(_schema_="nowhere:NoConfig"), "no schema 'NoConfig'"),
        (lambda stored: stored.update(overrides=["method"]), "missing EQUAL"),
    ],
)
def test_a_configuration_that_no_run_wrote_is_refused(two_runs, change, why):
    path = two_runs / "cll-digits-0123456789" / "config.json"
    stored = json.loads(path.read_text())
    change(stored)
    write_json(path, stored)
    with pytest.raises(UserError, match=f"config.json.*{why}"):
        Run(path.parent).configuration()


def test_a_folder_of_another_run_is_refused(composed, tmp_path):
    open_run(composed("seed=1"), tmp_path / "run", [])
    open_run(composed("seed=1", "eval=[clean]", "force=true"), tmp_path / "run", [])
    with pytest.raises(UserError, match=r"holds another run \(they differ in seed\)"):
        open_run(composed("seed=2"), tmp_path / "run", [])


def test_a_run_is_locked_once(tmp_path):
    run = Run(tmp_path)
    with lock(run), pytest.raises(UserError, match="is being run by process"), lock(run):
        pass
    with lock(run):
        pass


def test_a_lock_on_a_folder_that_was_deleted_meanwhile_is_none(tmp_path, monkeypatch):
    run, flock = Run(tmp_path), fcntl.flock

    def wait(file, how):
        flock(file, how)
        (tmp_path / ".lock").unlink()  # by the one that held it

    monkeypatch.setattr(fcntl, "flock", wait)
    with pytest.raises(UserError, match="was deleted by another command"), lock(run):
        pass


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path) -> Run:
    """The folder of a run that was refused, as its command leaves it."""
    run = Run(tmp_path / "cll-digits-0123456789")
    assert run.is_new
    run.folder.mkdir()
    assert run.is_new
    write_json(run.folder / "config.json", {})
    write_json(run.result, {"status": "failed", "evals": {}})
    (run.folder / "curves").mkdir()
    assert not run.is_new
    return run


def test_a_run_that_has_not_begun_is_forgotten(made):
    forget(made)
    assert not made.folder.exists()
    forget(made)


@pytest.mark.parametrize("kept", ["weights.pt", "checkpoint.ckpt", "checkpoint-1.ckpt", "eval", "unreadable"])
def test_a_run_that_has_begun_is_not_forgotten(made, kept):
    if kept == "eval":
        write_json(made.result, {"status": "failed", "evals": {"clean": {}}})
    elif kept == "unreadable":
        made.result.write_text("{")
    else:
        (made.folder / kept).touch()
    forget(made)
    assert made.result.exists()


def test_a_run_that_another_process_holds_is_not_forgotten(made):
    with lock(made):
        forget(made)
    assert made.result.exists()


def results_of(run: Run) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.folder.iterdir() if path.is_file()}


@pytest.fixture
def earlier(tmp_path) -> Run:
    """A run that is done."""
    run = Run(tmp_path)
    for name in ("config.json", "result.json", "weights.pt"):
        (tmp_path / name).write_text(f'{{"{name}": 1}}')
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_text("a picture")
    return run


def test_what_was_set_aside_is_put_back_if_the_run_has_not_begun(earlier):
    before = results_of(earlier)
    for _ in range(2):  # the second time after a restart that was cut off
        set_aside(earlier)
        assert set(results_of(earlier)) == {"config.json"}
        write_json(earlier.result, {"status": "failed"})
    put_back(earlier)
    assert results_of(earlier) == before
    assert (earlier.folder / "figures" / "a.png").read_text() == "a picture"
    assert sorted(path.name for path in earlier.folder.iterdir()) == [
        "config.json",
        "figures",
        "result.json",
        "weights.pt",
    ]


def test_what_was_set_aside_is_gone_once_the_run_has_begun(earlier):
    set_aside(earlier)
    earlier.checkpoint.touch()
    put_back(earlier)
    assert sorted(path.name for path in earlier.folder.iterdir()) == ["checkpoint.ckpt", "config.json"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_restart_keeps_what_the_run_is(tmp_path):
    run = Run(tmp_path)
    for name in ("config.json", "result.json", "weights.pt", "checkpoint.ckpt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "figures").mkdir()
    restart(run)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    restart(run)


def test_rows_and_figures_replace_those_of_the_same_suite(tmp_path):
    record = Record(Run(tmp_path), {})
    old, kept, other = (tmp_path / f"{name}.png" for name in ("old", "kept", "other"))
    for path in (old, kept, other):
        path.touch()
    record.add("clean", {"id": "1"}, [Row("clean/accuracy", 0.5)], [old, kept])
    rows = [Row("certify/lipschitz", 3.0, "K"), Row("c", 0.1, detail={"class": "7"})]
    record.add("certify", {"id": "2"}, rows, [other])
    record.add("clean", {"id": "3"}, [Row("clean/accuracy", 0.75)], [kept])
    stored = json.loads((tmp_path / "result.json").read_text())
    assert [(row["suite"], row["value"]) for row in stored["rows"]] == [
        ("certify", 3.0),
        ("certify", 0.1),
        ("clean", 0.75),
    ]
    assert stored["metrics"] == {"clean/accuracy": 0.75, "certify/lipschitz": 3.0}
    assert stored["evals"] == {
        "clean": {"id": "3", "figures": ["kept.png"]},
        "certify": {"id": "2", "figures": ["other.png"]},
    }
    assert stored["figures"] == ["kept.png", "other.png"]
    assert (old.exists(), kept.exists(), other.exists()) == (False, True, True)
    assert Record(Run(tmp_path), {}).values == stored


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_against_the_printed_values(hits, n, low, high):
    row = fraction("m", hits, n)
    assert row.value == hits / n
    assert row.interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilson_interval_solves_its_equation():
    row = fraction("m", 37, 120)
    for end in row.interval or ():
        assert abs(37 / 120 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 120))
