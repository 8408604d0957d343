"""A folder of runs as it really is: written while it is read, cut off, old, deleted. Nothing else may be lost."""

import gc
import json
import multiprocessing
import shutil
import threading
from pathlib import Path

import pytest

from trust_exp.errors import UserError
from trust_exp.results import collect as module
from trust_exp.results.collect import collect, select
from trust_exp.results.record import SCHEMA, Record
from trust_exp.runs import Run, lock


def write(runs, name, **changes):
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    config = {"method": {"name": "cll", "epsilon": 0.5}, "dataset": {"name": "digits"}, "seed": 0}
    values = {"schema": SCHEMA, "run_id": Run(folder).id, "name": name, "status": "done", "error": None}
    values |= {"started": "2024-01-01", "config": config, "metrics": {"clean/accuracy": 0.9}, "rows": [], "figures": []}
    (folder / "result.json").write_text(json.dumps(values | changes))
    return folder


@pytest.fixture
def runs(tmp_path):
    for number in range(3):
        write(tmp_path, f"cll-digits-{number:010x}", started=f"2024-01-0{3 - number}")
    return tmp_path


def ids(found):
    return [int(result.id, 16) for result in found.results]


def assert_only_odd(runs, *words):
    """The three good ones are there, and one sentence names the odd one."""
    found = collect(runs)
    assert sorted(ids(found)) == [0, 1, 2]
    (sentence,) = found.unreadable
    for word in ("cll-digits-bad/result.json", *words):
        assert word in sentence
    assert "\n" not in sentence


def test_all_are_read_the_newest_last(runs):
    found = collect(runs)
    assert ids(found) == [2, 1, 0]
    assert not found.unreadable
    assert gc.isenabled()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_half_written_file_is_named(runs, share):
    path = write(runs, "cll-digits-bad") / "result.json"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    assert_only_odd(runs, "cannot be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 0}, "has schema 0; this version reads schema 1"),
        ({"schema": 99}, "has schema 99"),
        ({"schema": None}, "has schema None"),
        ({"config": None}, "lacks config"),
        ({"metrics": [1], "rows": None}, "lacks metrics, rows"),
    ],
)
def test_another_schema_is_named(runs, changes, words):
    write(runs, "cll-digits-bad", **changes)
    assert_only_odd(runs, words)


def test_a_result_without_a_key_is_named(runs):
    path = write(runs, "cll-digits-bad") / "result.json"
    values = json.loads(path.read_text())
    del values["error"]
    path.write_text(json.dumps(values))
    assert_only_odd(runs, "lacks error")


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"\xff\xfe\x00", b'"text"'])
def test_what_is_no_result_is_named(runs, content):
    (write(runs, "cll-digits-bad") / "result.json").write_bytes(content)
    assert_only_odd(runs)


def test_a_folder_in_the_place_of_a_result_is_named(runs):
    folder = write(runs, "cll-digits-bad")
    (folder / "result.json").unlink()
    (folder / "result.json").mkdir()
    assert_only_odd(runs, "cannot be read")


def test_a_folder_deleted_between_listing_and_reading_is_only_gone(runs, monkeypatch):
    read = module.read_result

    def delete_the_next(folder):
        if folder.name.endswith("0"):
            shutil.rmtree(runs / "cll-digits-0000000001")
        return read(folder)

    monkeypatch.setattr(module, "read_result", delete_the_next)
    found = collect(runs)
    assert sorted(ids(found)) == [0, 2]
    assert not found.unreadable


def test_a_run_that_has_not_started_is_no_result(runs):
    (runs / "cll-digits-new").mkdir()
    (runs / "cll-digits-new" / "config.json").write_text("{}")
    (runs / "notes.txt").write_text("mine")
    assert sorted(ids(collect(runs))) == [0, 1, 2]


def test_a_result_whose_config_json_is_lost_still_counts(runs):
    (runs / "cll-digits-0000000001" / "config.json").unlink()
    assert sorted(ids(collect(runs))) == [0, 1, 2]


def test_a_dead_run_is_interrupted_and_a_living_one_runs(runs):
    folder = write(runs, "cll-digits-00000000ff", status="running")
    (result,) = collect(runs, ["00000000ff"]).results
    assert (result.values["status"], result.values["error"]) == ("interrupted", "its process ended without a result")
    with lock(Run(folder)):
        (result,) = collect(runs, ["00000000ff"]).results
        assert result.values["status"] == "running"


def write_often(runs, name, times):
    run = Run(Path(runs) / name)
    run.folder.mkdir(exist_ok=True)
    record = Record(run, {"method": {"name": "cll"}, "dataset": {"name": "digits"}, "seed": 0})
    for number in range(times):
        record.write(status="done", metrics={f"clean/{i}": number for i in range(500)})


def test_two_writers_at_once_lose_nothing_and_no_reader_sees_half(runs):
    """Two processes write two results again and again; every look in between sees whole files."""
    context = multiprocessing.get_context("spawn")
    names = ("cll-digits-00000000aa", "cll-digits-00000000bb")
    writers = [context.Process(target=write_often, args=(str(runs), name, 60)) for name in names]
    for writer in writers:
        writer.start()
    looks = 0
    while any(writer.is_alive() for writer in writers):
        found = collect(runs)
        assert not found.unreadable
        assert {0, 1, 2} <= set(ids(found))
        looks += 1
    assert looks > 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sorted(ids(collect(runs))) == [0, 1, 2, 0xAA, 0xBB]


def test_two_writers_of_one_result_leave_one_of_theirs(runs):
    name = "cll-digits-00000000aa"
    threads = [threading.Thread(target=write_often, args=(str(runs), name, 30)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not collect(runs).unreadable
    (result,) = collect(runs, ["00000000aa"]).results
    assert set(result.values["metrics"].values()) == {29}
    assert not list((runs / name).glob(".result.json.*")), "no part of a file stays"


# --- selection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (["method=cll"], [0, 1, 2]),
        (["method=cll,gloro", "seed=0"], [0, 1, 2]),
        (["method.epsilon=0.50"], [0, 1, 2]),
        (["status=done", "0000000001"], [1]),
        (["cll-digits-0000000001", "0000000002"], [1, 2]),
        (["*-digits-*1"], [1]),
    ],
)
def test_a_selection(runs, selection, wanted):
    assert sorted(ids(collect(runs, selection))) == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("seed=1", [1]),  # neither 15 nor 104
        ("seed=1,15", [1, 15]),
        ("method.epsilon=0.5", [1]),  # not 0.51
        ("method.epsilon=0.50", [1]),
        ("method.epsilon=8/255", [104]),
        ("method.radii=[0.1,0.2]", [15]),
        ("method.radii=null", [1]),
        ("method.sided=true", [1]),
        ("method.sided=1", []),
        ("run_id=12e4567890", []),  # as numbers, two such ids are infinite
    ],
)
def test_a_value_is_matched_as_a_whole(tmp_path, word, wanted):
    options = {
        1: {"epsilon": 0.5, "radii": None, "sided": True},
        15: {"epsilon": 0.51, "radii": [0.1, 0.2], "sided": False},
        104: {"epsilon": 8 / 255, "radii": [0.1], "sided": False},
    }
    for seed, given in options.items():
        config = {"method": {"name": "cll", **given}, "dataset": {"name": "digits"}, "seed": seed}
        write(tmp_path, f"cll-digits-{seed}e99999999", config=config)
    assert sorted(found.config["seed"] for found in select(collect(tmp_path).results, [word])) == wanted


@pytest.mark.parametrize("selection", [["method=gloro"], ["status=failed"], ["nothing"]])
def test_a_selection_that_fits_nothing_is_said(runs, selection):
    with pytest.raises(UserError, match="matches none of the 3 runs"):
        collect(runs, selection)


def test_a_key_that_no_run_has_is_said_with_the_nearest(runs):
    with pytest.raises(UserError, match=r"the key 'method.epsilom' does not exist; did you mean method.epsilon\?"):
        collect(runs, ["status=done", "method.epsilom=0.5"])


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no folder of runs at"):
        collect(tmp_path / "nowhere")
