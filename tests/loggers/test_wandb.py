"""W&B: what a run leaves behind offline, how it ends, and that nothing W&B does can hold a run up."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, wait_for
from trust_exp import engine
from trust_exp.identity import digest, run_id
from trust_exp.job import Job
from trust_exp.loggers import wandb
from trust_exp.loggers.sync import parts_to_upload
from trust_exp.loggers.wandb import Curves, Wandb
from trust_exp.loggers.wandb_process import COLUMNS, NOT_UPLOADED, Session, summary_of, table_of, why_offline
from trust_exp.messages import RunFailed
from trust_exp.results.record import Record, Row, fraction
from trust_exp.runs import Run, open_run

KEY = "a" * 40
LOGGER = ["logger=wandb", f"logger.patience={PATIENCE}"]
SMOKE = ["size=smoke", "eval=[clean,certify]", *LOGGER]
LONG = ["size=smoke", "eval=[clean]", "fit.steps=1000", "fit.checkpoint_seconds=0.05", *LOGGER]
OPTIONS = {"project": "trust_exp", "entity": None, "mode": "auto", "tags": [], "system": False}


# --- whole jobs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(command_line_in, tmp_path_factory):
    """A job of a sweep that is done, and what it said."""
    command_line = command_line_in(tmp_path_factory.mktemp("offline"))
    process = command_line.here(*SMOKE, "logger.tags=[mine]", "sweep=seeds")
    assert process.returncode == 0, process.stderr
    return command_line, process


def test_an_offline_job_holds_all_of_the_result(job, offline_parts):
    command_line, process = job
    result, folder = command_line.result(), command_line.folder()
    (part,) = offline_parts(folder)
    assert part.run.run_id == result["run_id"]
    assert part.run.display_name == folder.name
    assert (part.run.project, part.run.run_group, part.run.job_type) == ("trust_exp", "seeds", "train")
    assert list(part.run.tags) == ["cll", "digits", "smoke", "mine"]
    assert {key: value for key, value in part.config.items() if key != "_wandb"} == result["config"]
    assert part.exit_codes == [0]
    assert not part.of("preempting")

    curves = [line for line in part.history if "train/loss" in line]
    assert [line["step"] for line in curves] == [4, 9, 14, 19]
    assert {"train/accuracy", "train/lipschitz", "epoch"} <= curves[0].keys()
    for metric, value in result["metrics"].items():
        assert part.summary[metric] == pytest.approx(value)
    assert part.summary["status"] == "done"
    assert part.summary["error"] is None
    assert part.summary["steps"] == 20

    table = part.table()
    assert table["columns"] == COLUMNS
    assert [line[:5] for line in table["data"]] == [
        [row[key] for key in ("suite", "metric", "value", "unit", "n")] for row in result["rows"]
    ]
    certified = next(line for line in table["data"] if line[1] == "certify/accuracy@0.25")
    assert certified[5] < certified[2] < certified[6]
    assert json.loads(certified[8])["how"] == "L2"
    (image,) = folder.glob("wandb/offline-run-*/files/media/images/figures/certified_accuracy*.png")
    assert image.read_bytes() == (folder / "figures" / "certified_accuracy.png").read_bytes()

    assert process.stderr.count("W&B") == 1
    assert f"W&B: offline (there is no API key, wandb login stores one); trust-exp wandb sync {part.run.run_id}" in (
        process.stderr
    )
    assert (folder / "curves" / "version_0" / "metrics.csv").exists()


def test_figures_that_wandb_cannot_show_are_told(tmp_path):
    session, told = object.__new__(Session), []
    session.ask, session.tell = {"folder": str(tmp_path)}, told.append
    assert session._media({"figures": ["figures/a.pdf", "figures/b.pdf"]}) == {}
    assert told == ["W&B shows no .pdf figures; figures=png makes some that it shows"]


def test_nothing_is_sent_that_was_not_asked_for(job, offline_parts):
    (part,) = offline_parts(job[0].folder())
    assert not part.of("environment")
    assert not part.of("stats")
    assert not part.of("output")
    assert not part.run.host
    assert not part.run.git.commit
    assert not list(part.folder.rglob("requirements.txt"))
    assert not list(part.folder.rglob("*.py"))


def test_a_later_eval_continues_the_run(job, offline_parts):
    command_line, _ = job
    before = command_line.result()
    name = before["run_id"]
    given = ["mode=eval", f"run={name}", "eval=[autoattack]", "eval.autoattack.samples=3", *LOGGER]
    process = command_line.here(*given)
    assert process.returncode == 0, process.stderr
    *_, part = offline_parts(command_line.folder())
    assert part.run.run_id == name
    assert part.run.job_type == "train"
    assert part.config["mode"] == "train", "the run is what was trained"
    assert "autoattack/accuracy" in part.summary
    assert not [line for line in part.history if "train/loss" in line]
    assert part.exit_codes == [0]


def test_a_failing_job_ends_as_failed(composed, tmp_path, offline_parts):
    config = composed(*SMOKE, "method.optimizer.lr=1e30")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    with pytest.raises(RunFailed, match="not finite"):
        engine.execute_and_record(job)
    (part,) = offline_parts(job.run.folder)
    assert part.exit_codes == [1]
    assert part.summary["status"] == "failed"
    assert "not finite" in part.summary["error"]


@pytest.mark.slow
def test_a_job_that_is_stopped_and_resumed_is_one_run(command_line, tmp_path, offline_parts):
    for times, number in enumerate((signal.SIGINT, signal.SIGKILL), 1):
        process = command_line.start(*LONG)
        wait_for(lambda: list(tmp_path.glob("runs/*/checkpoint.ckpt")), process)
        wait_for(lambda times=times: len(list(tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb"))) == times, process)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    wait_for(lambda: [part.exit_codes for part in offline_parts(command_line.folder())][1:] not in ([], [[]]))
    assert command_line.here(*LONG).returncode == 0
    stopped, killed, done = offline_parts(command_line.folder())
    assert stopped.run.run_id == killed.run.run_id == done.run.run_id == command_line.result()["run_id"]
    assert stopped.exit_codes == [130]
    assert stopped.of("preempting"), "with its exit code W&B shows it as preempted"
    assert stopped.summary["status"] == "interrupted"
    assert killed.exit_codes == [137]
    assert killed.summary["error"] == "its process was killed"
    assert done.exit_codes == [0]
    assert done.history[-2]["step"] == 999


@pytest.mark.slow
def test_two_processes_of_a_job_are_one_run(command_line, offline_parts):
    process = command_line("size=smoke", "eval=[clean]", *LOGGER, "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 0, process.stderr
    (part,) = offline_parts(command_line.folder())
    assert part.exit_codes == [0]
    assert [line["step"] for line in part.history if "train/loss" in line] == [4, 9, 14, 19]
    assert process.stderr.count("W&B") == 1


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_one_run_each_in_one_group(command_line, offline_parts):
    process = command_line("-m", "size=smoke", "eval=[clean]", *LOGGER, "seed=0,1", "hydra.launcher.workers=2")
    assert process.returncode == 0, process.stderr
    (sweep,) = command_line.runs.glob("sweeps/*")
    runs = [path.parent for path in command_line.runs.glob("*/result.json")]
    parts = [part for run in runs for part in offline_parts(run)]
    assert sorted(part.run.run_id for part in parts) == sorted(Run(run).id for run in runs)
    assert [part.run.run_group for part in parts] == [sweep.name] * 2
    assert [part.exit_codes for part in parts] == [[0], [0]]


# --- the logger alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(composed, tmp_path):
    """A run with one row, and its record: ``opened("seed=1")``."""

    def make(*overrides: str) -> tuple[Run, Record]:
        config = composed("size=smoke", *overrides)
        run = open_run(config, tmp_path / "runs" / f"cll-digits-{run_id(config)}", [])
        record = Record(run, config)
        record.add("clean", {"id": digest(config)}, [Row("clean/accuracy", 0.75, n=4, interval=(0.3, 0.95))])
        record.write(status="done")
        return run, record

    (tmp_path / "runs").mkdir()
    return make


def log(run: Run, record: Record, *, patience: float = PATIENCE, steps: range = range(3), **options) -> Wandb:
    """What the engine does with the logger."""
    logger = Wandb(run, record.values["config"], patience=patience, **(OPTIONS | options))
    curves = Curves(logger.writer, run.id)
    for step in steps:
        curves.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    logger.finish(record.values)
    return logger


@pytest.fixture
def account(monkeypatch, server):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    return server


@pytest.mark.slow
def test_with_a_key_the_run_is_online(opened, account, capsys):
    run, record = opened("sweep=seeds")
    log(run, record)
    sent = account.runs[run.id]
    assert [line["train/loss"] for line in sent["history"] if "train/loss" in line] == [1, 1 / 2, 1 / 3]
    assert sent["exit"] == [0]
    assert sent["given"]["displayName"] == run.folder.name
    assert sent["given"]["groupName"] == "seeds"
    assert sent["config"]["method"]["value"]["name"] == "cll"
    assert f"W&B: {account.url}/me/trust_exp/runs/{run.id}" in capsys.readouterr().err
    assert not list(run.folder.rglob(NOT_UPLOADED))
    assert parts_to_upload(run.folder) == []


@pytest.mark.slow
def test_two_jobs_at_once_are_two_runs(opened, offline_parts):
    made = [opened(f"seed={seed}") for seed in (1, 2)]
    loggers = [Wandb(run, record.values["config"], patience=PATIENCE, **OPTIONS) for run, record in made]
    for logger, (_, record) in zip(loggers, made, strict=True):
        logger.finish(record.values)
    parts = [part for run, _ in made for part in offline_parts(run.folder)]
    assert [part.run.run_id for part in parts] == [run.id for run, _ in made]
    assert [part.config["seed"] for part in parts] == [1, 2]
    assert [part.exit_codes for part in parts] == [[0], [0]]


def test_a_silent_server_holds_no_job_up(opened, silent_server, monkeypatch, offline_parts, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    run, record = opened()
    monkeypatch.setattr(wandb, "LOCAL_SECONDS", PATIENCE)
    log(run, record, patience=1)
    (part,) = offline_parts(run.folder)
    assert part.exit_codes == [0]
    assert len([line for line in part.history if "train/loss" in line]) == 3
    assert "W&B: offline (the server could not be reached" in capsys.readouterr().err


def test_a_run_that_is_refused_goes_on_offline(opened, account, offline_parts, capsys):
    run, record = opened()
    account.refused.add(run.id)
    log(run, record)
    (part,) = offline_parts(run.folder)
    assert part.exit_codes == [0]
    said = capsys.readouterr().err
    assert said.count("W&B") == 1
    assert "this run is refused" in said
    assert len(parts_to_upload(run.folder)) == 1


def pretend(monkeypatch, tmp_path: Path, text: str) -> None:
    """Let ``import wandb`` find this text in the writer's process."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))


def test_a_wandb_that_cannot_be_imported_is_left_out(opened, monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, tmp_path, "raise ImportError('libfoo.so: cannot open shared object file')")
    log(*opened())
    assert capsys.readouterr().err == "W&B is not used: libfoo.so: cannot open shared object file\n"


def test_a_wandb_that_hangs_is_left_behind(opened, monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, tmp_path, "import signal\nsignal.pause()")
    monkeypatch.setattr(wandb, "LOCAL_SECONDS", 1)
    logger = log(*opened(), patience=0.1, steps=range(20000))
    assert "W&B did not end within 1.2 s and was killed; the run itself is complete" in capsys.readouterr().err
    assert logger.writer.process.wait(PATIENCE) == -signal.SIGKILL


def test_a_writer_that_is_killed_is_no_loss(opened, capsys):
    run, record = opened()
    logger = Wandb(run, record.values["config"], patience=PATIENCE, **OPTIONS)
    curves = Curves(logger.writer, run.id)
    curves.log_metrics({"train/loss": 1.0}, 0)
    os.kill(logger.writer.process.pid, signal.SIGKILL)
    for step in range(1000):
        curves.log_metrics({"train/loss": 1.0}, step)
    logger.finish(record.values)
    assert "W&B ended before the run did (exit code -9); the run itself is complete" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_no_loss(opened, capsys):
    run, record = opened()
    (run.folder / "wandb").write_text("in the way")
    log(run, record)
    assert "W&B is not used: [Errno 17] File exists" in capsys.readouterr().err


def test_a_process_that_cannot_start_is_no_loss(opened, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    log(*opened())
    assert "W&B is not used: [Errno 2] No such file or directory" in capsys.readouterr().err


def test_what_was_not_measured_has_no_number():
    rows = [{"suite": "s", **vars(row)} for row in (fraction("s/none", 0, 0), fraction("s/all", 2, 2))]
    summary = summary_of({"status": "done", "metrics": {row["metric"]: row["value"] for row in rows}})
    assert summary == {"status": "done", "s/all": 1.0}
    places = [COLUMNS.index(name) for name in ("metric", "value", "n", "low")]
    assert [[line[place] for place in places] for line in table_of(rows)] == [
        ["s/none", None, 0, None],
        ["s/all", 1.0, 2, pytest.approx(0.342, abs=1e-3)],
    ]


def test_the_mode_follows_the_key_and_the_environment(monkeypatch):
    assert why_offline("auto") == why_offline("online") == "there is no API key, wandb login stores one"
    assert why_offline("offline") == "as requested"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert why_offline("auto") is why_offline("online") is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert why_offline("auto") == "as requested"
    assert why_offline("online") is None
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_MODE")
    netrc = Path(os.environ["NETRC"])
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    try:
        assert why_offline("auto") is None
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        assert why_offline("auto") is not None
    finally:
        netrc.unlink()


# --- trust-exp wandb sync ------------------------------------------------------------------------------------------


def sync(*arguments: str) -> int:
    from trust_exp.cli import run
    from trust_exp.messages import exit_code_of

    return exit_code_of(lambda: run(["wandb", "sync", *arguments]))


@pytest.mark.slow
def test_sync_uploads_parts_in_their_order(opened, server, monkeypatch, tmp_path, capsys):
    first, record = opened()
    log(first, record, steps=range(2))
    second, other = opened("seed=1")
    other.write(started="2000-01-01T00:00:00+00:00")
    log(second, other)
    third, refused = opened("seed=2")
    log(third, refused)
    log(first, record, steps=range(1, 4))  # it was resumed
    server.refused.add(third.id)
    runs = ["--runs", str(tmp_path / "runs")]

    assert sync(*runs) == 2
    assert "there is no API key for https://api.wandb.ai: wandb login stores one" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync("--timeout", str(PATIENCE), *runs) == 1
    said = capsys.readouterr().err
    assert f"{first.folder.name}: uploading 2 parts" in said
    assert f"{third.folder.name}: failed: " in said
    assert "1 of 3 runs could not be uploaded" in said
    assert server.order[0] == second.id, "it was the first to start"
    steps = [line["step"] for line in server.runs[first.id]["history"] if "train/loss" in line]
    assert steps == [0, 1, 1, 2, 3], "the later part is appended"
    assert server.runs[first.id]["exit"][-1] == 0

    server.refused.clear()
    assert sync(*runs) == 0
    said = capsys.readouterr().err
    assert said.count("uploading") == 1
    assert f"uploaded 1 run to {server.url}" in said
    assert sync(*runs) == 0
    assert capsys.readouterr().err == "there is nothing to upload\n"


def test_what_an_online_run_left_is_uploaded_too(tmp_path):
    for name, marks in {
        "run-20260102_000000-a": [NOT_UPLOADED],
        "run-20260101_000000-a": [],
        "offline-run-20260101_000001-a": [],
        "offline-run-20260103_000000-a": ["run-a.wandb.synced"],
    }.items():
        (tmp_path / "wandb" / name).mkdir(parents=True)
        for mark in ["run-a.wandb", *marks]:
            (tmp_path / "wandb" / name / mark).touch()
    names = [part.name for part in parts_to_upload(tmp_path)]
    assert names == ["offline-run-20260101_000001-a", "run-20260102_000000-a"]
