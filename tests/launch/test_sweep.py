"""Whole sweeps through the command line: jobs that raise, die or hang, stopping and going on, what sweepers get."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.waiting import PATIENCE, is_alive, is_pending, stop, wait_for
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.launch.sweep import write_failure
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.runs import Run, lock
from trust_exp.schema import ROOT

SMOKE = ["size=smoke", "eval=[clean]"]
LONG = ["eval=[clean]", "fit.epochs=null", "fit.steps=400", "fit.checkpoint_seconds=0.3"]
TWO = ["hydra.launcher.workers=2"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)["state_dict"]
    return state


def assert_same_run(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["metrics"] == results[1]["metrics"]


def ended(command_line) -> dict[str, tuple[str, str | None]]:
    """Status and error of each run."""
    results = [json.loads(path.read_text()) for path in command_line.runs.glob("*/result.json")]
    return {result["name"]: (result["status"], result["error"]) for result in results}


def holder(folder: Path) -> int | None:
    """The process that holds a run's lock."""
    try:
        found = re.match(r"process (\d+)", (folder / ".lock").read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


CLOCK = """
import runpy, sys, time
from pathlib import Path
from types import SimpleNamespace
from trust_exp.launch import process
late, *sys.argv = sys.argv[1:]
process.time = SimpleNamespace(sleep=time.sleep, monotonic=lambda: time.monotonic() + 3600 * Path(late).exists())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(command_line, *arguments: str, late: Path | None = None) -> "subprocess.Popen[str]":
    """A sweep in a process group of its own, as a shell starts it; an hour later for its launcher when ``late`` is."""
    clock = [] if late is None else ["-c", CLOCK, str(late)]
    command = [sys.executable, *clock, str(ROOT / "run.py"), "-m", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=command_line.environment, text=True, stdout=-1, stderr=-1, start_new_session=True
    )


@pytest.fixture
def folder_of(command_line, composed_in) -> Callable[..., Path]:
    """The folder of the run that some overrides describe."""

    def find(*overrides: str) -> Path:
        checked = composed_in(command_line.runs, *overrides)
        return command_line.runs / f"{checked['method']['name']}-digits-{run_id(checked)}"

    return find


MANY = (["method=cll,gloro", "seed=range(0,6)"], 9, ["method=gloro"])


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "right", "alike"), [(["seed=range(0,4)"], 1, []), MANY], ids=["one", "nine"])
def test_one_job_raises_one_is_killed_one_hangs_and_the_others_are_right(
    command_line, folder_of, tmp_path, jobs, right, alike
):
    sweep = [*SMOKE, *TWO, *jobs]
    limits = ["hydra.launcher.timeout_min=50", "hydra.launcher.grace_s=0.5"]
    hangs, dies, raises = (folder_of(*SMOKE, f"seed={seed}") for seed in (0, 1, 2))
    (raises / "weights.part").mkdir(parents=True)
    for folder in (hangs, dies):  # neither can end by itself: a pipe that nobody reads cannot be opened
        folder.mkdir()
        os.mkfifo(folder / "weights.part")
    process = start(command_line, *sweep, *limits, late=tmp_path / "late")
    stop(wait_for(lambda: holder(hangs), process))
    os.kill(wait_for(lambda: holder(dies), process), signal.SIGKILL)
    err = ""
    while len(re.findall(r"(done|failed) after ", err)) < right + 2:  # all but the one that hangs
        line = process.stderr.readline()
        assert line, err
        err += line
    (tmp_path / "late").touch()
    out, rest = process.communicate(timeout=PATIENCE)
    err += rest

    assert process.returncode == 1, err
    failed = {name: error for name, (status, error) in ended(command_line).items() if status == "failed"}
    assert failed.keys() == {hangs.name, dies.name, raises.name}
    assert failed[hangs.name] == "timed out after 50 min"
    assert failed[dies.name] == "killed by SIGKILL (out of memory, perhaps)"
    assert "Is a directory" in failed[raises.name]
    assert f"{right + 3} jobs in " in out
    assert f"{right} done, 3 failed" in out
    for name, error in failed.items():
        label = "method=cll " if alike else ""
        assert re.search(rf"failed: {name} \({label}seed=\d\): {re.escape(error)}\n +log: .*log.txt", out)
    assert f"3 of {right + 3} jobs failed; the same command runs just them again" in err
    assert not list(command_line.runs.glob("*/job-*.json"))

    plain = command_line.here(*SMOKE, *alike, "seed=3", f"paths.runs={tmp_path / 'plain'}")
    assert plain.returncode == 0, plain.stderr
    (alone,) = (tmp_path / "plain").iterdir()
    assert_same_run(command_line.runs / alone.name, alone)

    before = {path: path.stat().st_mtime_ns for path in command_line.runs.glob("*/*") if path.parent.name not in failed}
    (raises / "weights.part").rmdir()
    for folder in (hangs, dies):
        (folder / "weights.part").unlink()
    again = command_line("-m", *sweep)
    assert again.returncode == 0, again.stderr
    assert re.search(rf"{right + 3} jobs in .* s: \d (done|resumed).*{right} skipped", again.stdout)
    assert {status for status, _ in ended(command_line).values()} == {"done"}
    for path, when in before.items():
        assert path.parent.name == "sweeps" or path.stat().st_mtime_ns == when, f"{path} was touched"


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT,), (signal.SIGINT, signal.SIGKILL)],
    ids=["interrupted", "interrupted, then killed"],
)
def test_a_sweep_that_is_stopped_goes_on_and_ends_with_the_same_weights(command_line, folder_of, tmp_path, numbers):
    sweep = [*LONG, *TWO, "seed=0,1"]
    folders = [folder_of(*LONG, f"seed={seed}") for seed in (0, 1)]

    def is_running(folder: Path, tries: int) -> bool:
        log = folder / "log.txt"
        resumed = log.exists() and log.read_text().count("resuming from step") == tries
        return resumed and (folder / "checkpoint.ckpt").exists()

    for tries, number in enumerate(numbers):
        process, pids = start(command_line, *sweep), []
        held = set(folders)  # until both run, the first one waits for the other
        while held:
            folder = wait_for(lambda: next((one for one in held if is_running(one, tries)), None), process)  # noqa: B023
            pids.append(holder(folder))
            stop(pids[-1])
            held.remove(folder)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as the terminal does it
        else:
            process.send_signal(number)
        for pid in pids:
            wait_for(lambda: is_pending(pid, signal.SIGTERM) or not is_alive(pid))  # noqa: B023
            assert is_alive(pid), "the runs were over already"
            os.kill(pid, signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE)
        wait_for(lambda: not any(is_alive(pid) for pid in pids))  # noqa: B023
        assert [status for status, _ in ended(command_line).values()] == ["interrupted"] * 2, err
        assert all((folder / "checkpoint.ckpt").exists() for folder in folders), "the runs were over already"
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert number == signal.SIGKILL or "2 jobs in " in out
        assert "Traceback" not in err

    last = command_line("-m", *sweep)
    assert last.returncode == 0, last.stderr
    assert "2 resumed" in last.stdout
    assert command_line.here(*LONG, "seed=1", f"paths.runs={tmp_path / 'plain'}").returncode == 0
    assert_same_run(folders[1], tmp_path / "plain" / folders[1].name)


WRONG = [
    (["seed=0,abc"], "seed must be a whole number; got 'abc'"),
    (["hydra.launcher.worker=2"], "did you mean hydra.launcher.workers?"),
    (["hydra.launcher.workers=0"], "hydra.launcher.workers must be at least 1; got 0"),
    (["hydra.launcher.timeout_min=abc"], "hydra.launcher.timeout_min must be a number"),
    (["hydra/launcher=proces"], "did you mean process?"),
    (["hydra.launcher.gpus=[]"], "names no set of GPUs"),
    (["seed=range(0,0)"], "the sweep has no jobs"),
    (["hydra/sweeper=optuna", "seed=range(0,3)"], "objective=<metric>"),
    (["accelerator.nodes=2"], "accelerator.nodes must be 1 on one machine"),
    (["mode=eval", "run=0123456789,abc"], "run=0123456789: there is no such run"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_mistake_in_any_job_is_said_before_any_starts(command_line, arguments, sentence):
    process = command_line.here("-m", *arguments)
    assert process.returncode == 2
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
    assert " running" not in process.stderr
    assert not list(command_line.runs.glob("**/*")), "what is refused leaves nothing behind"


@pytest.fixture(scope="module")
def trained(command_line_in, tmp_path_factory):
    """A command line whose sweep over two seeds is done; the seed 0 was asked for twice."""
    command_line = command_line_in(tmp_path_factory.mktemp("trained") / "runs")
    process = command_line("-m", *SMOKE, *TWO, "seed=0,1,0")
    assert process.returncode == 0, process.stderr
    assert "2 done, 1 skipped" in process.stdout
    return command_line


@pytest.mark.slow
def test_a_sweep_over_evals_of_earlier_runs(trained):
    ids = [name.rpartition("-")[2] for name in ended(trained)]
    assert trained.here("mode=eval", f"run={ids[0]}", "eval=[certify]").returncode == 0
    process = trained("-m", "mode=eval", f"run={','.join(ids)}", "eval=[certify]", *TWO)
    assert process.returncode == 0, process.stderr
    assert "1 done, 1 skipped" in process.stdout
    assert "certified" in process.stdout
    for path in trained.runs.glob("*/result.json"):
        evals = json.loads(path.read_text())["evals"]
        assert set(evals) == {"clean", "certify"}
        assert_repeatable(trained, evals["certify"]["environment"]["command"], path.parent)


def assert_repeatable(command_line, words: list[str], folder: Path) -> None:
    """The words after ``python`` are those of a command of which nothing is left to do."""
    assert words[0] == "run.py"
    process = command_line.here(*words[1:])
    assert f"{folder.name} is done" in process.stderr


def test_the_command_of_a_job_can_be_repeated_by_hand(trained):
    for path in trained.runs.glob("*/result.json"):
        assert_repeatable(trained, json.loads(path.read_text())["environment"]["command"], path.parent)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["objective=clean/acuracy"], "did you mean clean/accuracy?"), (["objective=clean/accuracy"], None)],
    ids=["wrong", "right"],
)
def test_an_objective_is_a_metric_of_the_run(trained, arguments, sentence):
    process = trained("-m", *SMOKE, "seed=0,1", *arguments)
    assert process.returncode == (2 if sentence else 0)
    assert process.stderr.count("error: ") == (1 if sentence else 0)
    assert (sentence or "2 jobs") in process.stderr


def test_jobs_whose_folders_cannot_be_used_fail_alone(trained, composed_in):
    result, config = (
        trained.runs / f"cll-digits-{run_id(composed_in(trained.runs, *SMOKE, f'seed={seed}'))}" for seed in (2, 3)
    )
    for folder in (result, config):
        folder.mkdir()
    (result / "result.json").write_text('{"status": "do')
    (config / "config.json").write_text("{")
    process = trained("-m", *SMOKE, *TWO, "seed=2,3,0", "hydra.launcher.retries=2")
    assert process.returncode == 1
    assert "1 skipped, 2 failed" in process.stdout
    for folder, reason in ((result, "result.json cannot be read"), (config, "config.json cannot be read")):
        assert re.search(rf"failed: {folder.name} .*{reason}", process.stdout)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_waited_for(command_line, folder_of):
    held = folder_of(*SMOKE, "seed=7")
    held.mkdir(parents=True)
    with lock(Run(held)):
        process = command_line.start("-m", *SMOKE, "seed=7,8", "hydra.launcher.workers=1")
        lines: list[str] = []
        while not any(" done after " in line for line in lines):  # the other one is not held up
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert f"{held.name} is being run by process {os.getpid()} on" in "".join(lines)
        assert not (held / "result.json").exists(), "the result of a run belongs to the process that holds it"
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "2 done" in out


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work(command_line):
    sweeps = [command_line.start("-m", *SMOKE, "seed=5,6", "hydra.launcher.workers=1") for _ in range(2)]
    said = [sweep.communicate(timeout=PATIENCE) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], said
    results = [json.loads(path.read_text()) for path in command_line.runs.glob("*/result.json")]
    assert [result["status"] for result in results] == ["done", "done"]
    counts = "".join(re.findall(r"jobs in .*", out + " ")[0] for out, _ in said)
    assert sum(map(int, re.findall(r"(\d) done", counts))) == 2, "each run is trained by one of them"


def test_a_run_that_is_done_stays_done_whoever_says_otherwise(trained, composed_in):
    config = composed_in(trained.runs, *SMOKE, "seed=0")
    job = SweepJob(1, "", Job(config, Run(trained.runs / f"cll-digits-{run_id(config)}"), []), seen=1)  # written since
    assert write_failure(job, "killed") == "done"
    assert job.result()["status"] == "done"


def test_hydras_own_launcher_still_works(trained):
    process = trained("-m", *SMOKE, "seed=0,1", "hydra/launcher=basic")
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("is done; force=true starts it anew") == 2


def test_a_sweep_on_a_terminal_ends_with_its_summary(trained):
    reader, writer = pty.openpty()
    command = [sys.executable, str(ROOT / "run.py"), "-m", *SMOKE, "seed=0,1"]
    environment = {**trained.environment, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=writer, stderr=writer)
    os.close(writer)
    said = b""
    while True:
        try:
            said += os.read(reader, 4096)
        except OSError:
            break
    os.close(reader)
    assert process.wait() == 0, said.decode()
    lines = said.decode().splitlines()
    assert lines[-1] == f"2 jobs in {lines[-1].split()[3]} s: 2 skipped"
    assert b"\x1b[?25h" in said, "the cursor is back"


@pytest.mark.slow
def test_one_process_of_a_job_on_two_dies(command_line, folder_of):
    ddp = ["accelerator=ddp", "accelerator.kind=cpu", *LONG]
    broken = folder_of(*LONG)
    process = command_line.start("-m", *ddp, *TWO, "seed=0")
    first = wait_for(lambda: holder(broken), process)
    wait_for(lambda: (broken / "checkpoint.ckpt").exists(), process)
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    assert "1 failed" in out
    assert not is_alive(first)
    assert ended(command_line)[broken.name][0] == "failed"


@pytest.mark.slow
def test_optuna_finds_the_best_of_a_study(command_line):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.direction=maximize",
    ]
    process = command_line(
        "-m", *study, *SMOKE, *TWO, "objective=clean/accuracy", "method.optimizer.lr=tag(log,interval(0.0001,0.1))"
    )
    assert process.returncode == 0, process.stderr
    (found,) = command_line.runs.glob("sweeps/*/optimization_results.yaml")
    results = [json.loads(path.read_text()) for path in command_line.runs.glob("*/result.json")]
    assert len(results) == 4
    best = max(results, key=lambda result: result["metrics"]["clean/accuracy"])
    accuracy = best["metrics"]["clean/accuracy"]
    assert f"best_value: {accuracy}" in found.read_text()
    said = process.stdout.splitlines()[-1]
    assert said.startswith(f"best clean/accuracy: {accuracy:.6g} with method.optimizer.lr=")
    name = re.search(r"\((.*)\)$", said)[1]
    assert json.loads((command_line.runs / name / "result.json").read_text())["metrics"]["clean/accuracy"] == accuracy


def test_a_process_that_is_refused_leaves_the_job_to_its_holder(command_line, folder_of, composed_in):
    """The holder's further ranks may still have to read the file that describes the job."""
    folder = folder_of(*SMOKE)
    folder.mkdir(parents=True)
    ask = folder / "job-0123456789.json"
    ask.write_text(json.dumps({"config": composed_in(command_line.runs, *SMOKE), "overrides": []}))
    command = [sys.executable, "-m", "trust_exp.jobs", str(ask)]
    with lock(Run(folder)):
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 2
    assert "is being run by process" in process.stderr
    assert ask.exists()
