"""The SLURM launcher against a real SLURM of one node (make test-slurm); what needs none runs with the other tests."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SHARED, CommandLine
from tests.waiting import PATIENCE, is_alive, wait_for
from trust_exp.launch import slurm
from trust_exp.launch.board import Board
from trust_exp.launch.node import NodeJob, forget_exits, read_exits, write_exit
from trust_exp.launch.process import StopRequests
from trust_exp.launch.slurm import Cluster, fate, reason_of, waves

START = SHARED / "tools" / "slurm_up.sh"
JOBS = ("-m", "method=cll", "dataset=digits", "eval=[clean]", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")
QUICK = (*JOBS, "size=smoke", "hydra.launcher.poll_s=0.5")
LONG = (*JOBS, "fit.epochs=100", "fit.checkpoint_seconds=1", "hydra.launcher.poll_s=0.5")


@pytest.fixture(scope="session")
def started_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not START.exists():
        pytest.skip(f"there is no {START}, which starts a SLURM")
    if os.geteuid():
        pytest.skip("starting a SLURM needs root")
    folder = Path("/tmp") / f"slurm-{os.getpid()}"  # short: the names of unix sockets are limited
    done = subprocess.run(["bash", str(START), str(folder)], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        pytest.skip(f"SLURM cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["bash", str(START), "--down", str(folder)], capture_output=True, timeout=PATIENCE)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(started_slurm: dict[str, str], command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("SLURM_CONF", started_slurm["SLURM_CONF"])
    command_line.environment |= started_slurm
    return command_line


def told_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def runs_of(line: CommandLine) -> list[Path]:
    return sorted(path.parent for path in line.runs.glob("*/config.json"))


def seed_of(run: Path) -> int:
    return int(json.loads((run / "config.json").read_text())["config"]["seed"])


def result_of(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "result.json").read_text())
    return value


def process_of(run: Path) -> int | None:
    lock = run / ".lock"
    found = re.search(r"process (\d+)", lock.read_text()) if lock.exists() else None
    return int(found[1]) if found else None


def job_id(text: str) -> str:
    return re.findall(r"as SLURM job (\d+)", text)[-1]


def only_run(line: CommandLine) -> Path | None:
    found = runs_of(line)
    return found[0] if found else None


def start_and_wait_for_a_checkpoint(line: CommandLine, *arguments: str) -> "tuple[subprocess.Popen[str], Path, str]":
    process = line.start(*LONG, *arguments)
    run = wait_for(lambda: only_run(line))
    wait_for(lambda: (run / "checkpoint.ckpt").exists())
    (ask,) = run.glob("job-*.json")
    return process, run, json.loads(ask.read_text())["slurm"]


@pytest.mark.slurm
def test_six_jobs_two_at_a_time(cluster):
    process = cluster.start(*QUICK, "seed=range(0,6)", "hydra.launcher.array_parallelism=2")
    most = 0
    while process.poll() is None:
        most = max(most, told_by("squeue", "--me", "--noheader", "--array", "--states=RUNNING").count("\n"))
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert most == 2
    assert "6 jobs in" in out
    assert "6 done" in out
    assert sorted(map(seed_of, runs_of(cluster))) == list(range(6))
    assert all(result_of(run)["status"] == "done" for run in runs_of(cluster))
    assert all((run / "log.txt").read_text().startswith("--- SLURM job") for run in runs_of(cluster))
    assert not list(cluster.runs.glob("*/job-*"))  # nothing is left behind
    states = told_by("sacct", "-nXP", f"--jobs={job_id(err)}", "--format=State").split()
    assert states == ["COMPLETED"] * 6


@pytest.mark.slurm
def test_one_raises_one_is_killed_the_others_are_done_and_only_the_two_run_again(cluster):
    assert cluster(*QUICK, "seed=9").returncode == 0  # makes a run whose name the others share but for the id
    process = cluster.start(*QUICK, "seed=range(0,4)")
    made = wait_for(lambda: len(runs_of(cluster)) == 5 and {seed_of(run): run for run in runs_of(cluster)})
    (made[1] / "weights.part").mkdir()  # so that the run raises when it writes its weights
    os.kill(wait_for(lambda: process_of(made[2])), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "2 failed" in out
    assert "2 of 4 jobs failed; the same command runs just them again" in err
    assert "killed by SIGKILL" in result_of(made[2])["error"]
    assert "Is a directory" in result_of(made[1])["error"]
    assert [result_of(made[seed])["status"] for seed in range(4)] == ["done", "failed", "failed", "done"]
    states = told_by("sacct", "-nXP", f"--jobs={job_id(err)}", "--format=State").split()
    assert sorted(states) == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]

    (made[1] / "weights.part").rmdir()
    before = {seed: (made[seed] / "result.json").stat().st_mtime_ns for seed in (0, 3)}
    again = cluster(*QUICK, "seed=range(0,4)")
    assert again.returncode == 0, again.stderr
    assert "submitted 2 jobs" in again.stderr
    assert "2 skipped" in again.stdout
    assert before == {seed: (made[seed] / "result.json").stat().st_mtime_ns for seed in (0, 3)}
    assert all(result_of(run)["status"] == "done" for run in runs_of(cluster))


@pytest.mark.slurm
def test_a_preempted_job_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(cluster, command_line_in, tmp_path):
    process, run, job = start_and_wait_for_a_checkpoint(cluster, "hydra.launcher.timeout_min=60")
    told_by("scancel", "--signal=USR2", job)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "1 resumed" in out
    assert len(re.findall("resuming from step", (run / "log.txt").read_text())) == 1
    whole = command_line_in(tmp_path / "whole")
    done = whole("dataset=digits", "method=cll", "eval=[clean]", "fit.epochs=100")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / "weights.pt", weights_only=True) for folder in (run, whole.folder()))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())


@pytest.mark.slurm
def test_a_job_out_of_time_once_too_often_fails_and_can_be_taken_up(cluster):
    limits = ("hydra.launcher.timeout_min=10", "hydra.launcher.max_num_timeout=0")
    process, run, job = start_and_wait_for_a_checkpoint(cluster, *limits)
    told_by("scancel", "--signal=USR2", job)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "timed-out too many times" in result_of(run)["error"]
    assert "timed-out too many times" in out
    again = cluster(*LONG, *limits)
    assert again.returncode == 0, again.stderr
    assert "1 resumed" in again.stdout


@pytest.mark.slurm
def test_two_tasks_train_one_model_and_a_failure_of_the_second_is_a_failure(cluster, command_line_in, tmp_path):
    two = (*QUICK, "accelerator=ddp", "accelerator.kind=cpu")
    assert (done := cluster(*two)).returncode == 0, done.stderr
    (run,) = runs_of(cluster)
    one = command_line_in(tmp_path / "one")
    assert one("dataset=digits", "method=cll", "eval=[clean]", "size=smoke", "accelerator=cpu").returncode == 0
    assert result_of(run)["metrics"]["clean/accuracy"] == one.result()["metrics"]["clean/accuracy"]
    first, second = (torch.load(folder / "weights.pt", weights_only=True) for folder in (run, one.folder()))
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], rtol=1e-4, atol=1e-5)

    broken = tmp_path / "broken" / "torchmetrics"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('only rank one is broken')")
    prolog = tmp_path / "prolog.sh"
    prolog.write_text(f'#!/bin/sh\n[ "$SLURM_PROCID" = 1 ] && echo "export PYTHONPATH={broken.parent}"\nexit 0\n')
    prolog.chmod(0o755)
    failed = cluster(*two, "seed=1", f'hydra.launcher.srun_args=["--task-prolog={prolog}"]')
    assert failed.returncode == 1
    assert "rank 1: RuntimeError: only rank one is broken" in failed.stdout
    (run,) = (run for run in runs_of(cluster) if seed_of(run) == 1)
    assert result_of(run)["status"] == "failed"
    assert "only rank one is broken" in result_of(run)["error"]


@pytest.mark.slurm
def test_ctrl_c_leaves_the_job_in_the_queue_and_the_same_command_watches_it(cluster):
    process, run, job = start_and_wait_for_a_checkpoint(cluster)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"goes on as SLURM job {job}" in out + err or f"scancel {job}" in err
    again = cluster(*LONG)
    assert again.returncode == 0, again.stderr
    assert f"is in the queue as {job}" in again.stderr
    assert "submitted" not in again.stderr
    assert (run / "log.txt").read_text().count("--- SLURM job") == 1


@pytest.mark.slurm
def test_a_cancelled_job_is_reported(cluster):
    process, run, job = start_and_wait_for_a_checkpoint(cluster)
    told_by("scancel", job)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    # on a busy machine SLURM may kill it before it has said how it ended
    how, _, said = result_of(run)["error"].partition("; ")
    assert how in ("stopped by a signal", "ended without a result")
    assert said.startswith(f"SLURM says of job {job}: CANCELLED")


@pytest.mark.slurm
@pytest.mark.parametrize("accounting", [True, False], ids=["accounting", "no_accounting"])
def test_a_job_that_dies_without_a_word_is_reported(cluster, tmp_path, accounting):
    if not accounting:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sacct").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / "sacct").chmod(0o755)
        cluster.environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    process, run, job = start_and_wait_for_a_checkpoint(cluster)
    child = process_of(run)
    shell = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{child}/status").read_text())[0])
    os.kill(shell, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    result = result_of(run)
    assert result["status"] == "failed"
    said = "FAILED, exit code" if accounting else "nothing, as there is no accounting"
    assert f"ended without a result; SLURM says of job {job}: {said}" in result["error"]
    wait_for(lambda: not is_alive(child))  # the run ends with its shell
    assert (run / "checkpoint.ckpt").exists()


@pytest.mark.slurm
def test_new_evals_of_a_run_that_is_done(cluster):
    assert cluster("method=cll", "dataset=digits", "size=smoke", "eval=[clean]").returncode == 0
    (run,) = runs_of(cluster)
    more = [argument for argument in QUICK if not argument.startswith(("method", "dataset", "eval", "size"))]
    process = cluster(*more, "mode=eval", f"run={run.name[-10:]}", "eval=[certify]")
    assert process.returncode == 0, process.stderr
    assert {row["suite"] for row in result_of(run)["rows"]} == {"clean", "certify"}


@pytest.mark.slurm
def test_what_slurm_refuses_is_one_sentence(cluster):
    process = cluster(*QUICK, "hydra.launcher.partition=nope")
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert "SLURM refused the jobs" in line
    assert "partition" in line
    assert "Traceback" not in process.stderr


def test_without_slurm_the_sentence_says_so(command_line, tmp_path):
    command_line.environment["PATH"] = str(tmp_path)
    process = command_line(*QUICK)
    assert process.returncode == 2
    assert "hydra/launcher=slurm needs sbatch, which is not on the PATH" in process.stderr


def test_exit_files_say_how_each_rank_ended(tmp_path):
    ask = tmp_path / "job-0123456789.json"
    assert read_exits(ask) == []
    write_exit(ask, 10, 1)
    write_exit(ask, 0, -9, "why")
    assert [(ended["rank"], ended["code"], ended["why"]) for ended in read_exits(ask)] == [(0, -9, "why"), (10, 1, "")]
    forget_exits(ask)
    assert not list(tmp_path.iterdir())


def test_the_reason_is_what_sbatch_says():
    error = RuntimeError("Command failed\nsbatch: error: one\nsbatch: error: Batch job submission failed: two\nmore")
    assert reason_of(error) == "sbatch: error: Batch job submission failed: two"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("12_0", "FAILED, exit code 12:0"),
        ("12_2", "CANCELLED by 0, exit code 0:0"),
        ("13", "COMPLETED, exit code 0:0"),
        ("14", "nothing about its end"),
        ("15", "nothing, as there is no accounting"),
    ],
)
def test_what_accounting_says(monkeypatch, job, said):
    records = {
        "12": "12_0|FAILED|12:0\n12_[1-3%2]|CANCELLED by 0|0:0\n",
        "13": "13|COMPLETED|0:0\n",
        "14": "14|RUNNING|0:0\n",
    }
    monkeypatch.setattr(slurm, "output_of", lambda *command: records.get(command[2].removeprefix("--jobs=")))
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    assert fate(job) == said


@pytest.mark.parametrize(
    ("result", "state", "reason"),
    [
        ({"status": "done"}, "done", ""),
        ({"status": "failed", "error": "ValueError: no"}, "failed", "ValueError: no"),
        ({"status": "interrupted"}, "failed", "ended without a result; SLURM says of job 7: COMPLETED"),
    ],
    ids=lambda value: str(value.get("status")) if isinstance(value, dict) else "",
)
def test_where_another_watcher_took_the_exit_files_the_run_speaks(make_job, monkeypatch, result, state, reason):
    monkeypatch.setattr(slurm, "fate", lambda _: "COMPLETED")
    job = make_job(1)
    job.run.result.write_text(json.dumps(result))
    cluster = Cluster([job], {}, Board([job], Path("sweep")), StopRequests())
    cluster.ids[job] = "7"
    cluster.ended(job, [])
    assert (job.state, job.reason) == (state, reason)
    assert result_of(job.run.folder)["status"] == state


def test_a_job_that_can_never_start_is_said_with_the_reason_of_the_queue(make_job, monkeypatch, capsys):
    held = "7_0|PENDING|PartitionConfig\n7_1|PENDING|Priority\n7_2|RUNNING|None\n"
    monkeypatch.setattr(slurm, "output_of", lambda *command: held)
    jobs = [make_job(number) for number in range(3)]
    cluster = Cluster(jobs, {}, Board(jobs, Path("sweep")), StopRequests())
    cluster.ids = {job: f"7_{number}" for number, job in enumerate(jobs)}
    cluster.look()
    cluster.look()
    assert [job.state for job in jobs] == ["waiting", "waiting", "running"]
    said = "".join(capsys.readouterr())
    assert said.count("SLURM does not start job 7_0: PartitionConfig") == 1
    assert "Priority" not in said


@pytest.mark.parametrize(("states", "said"), [(["done", "done"], ""), (["done", "running"], "scancel 8 ends")], ids=str)
def test_only_jobs_that_are_left_stay_in_the_queue(make_job, capsys, states, said):
    jobs = [make_job(number) for number in range(2)]
    cluster = Cluster(jobs, {}, Board(jobs, Path("sweep")), StopRequests())
    cluster.ids = {jobs[0]: "7_0", jobs[1]: "8_0"}
    for job, state in zip(jobs, states, strict=True):
        job.state = state
    cluster.leave()
    text = "".join(capsys.readouterr())
    assert said in text
    assert ("stay in the queue" in text) == bool(said)


def test_a_warning_before_the_child_is_started_is_no_error(tmp_path):
    assert NodeJob(str(tmp_path / "job-0.json"), 1).checkpoint().function.job_file == str(tmp_path / "job-0.json")


def test_two_jobs_on_one_run_are_not_submitted_together():
    class Fake:
        def __init__(self, folder: str) -> None:
            self.run = type("", (), {"folder": folder})

    jobs = [Fake(name) for name in "abcab"]
    assert list(waves(jobs)) == [jobs[:3], jobs[3:]]  # type: ignore[arg-type]
