"""The launcher of processes: slots, GPUs, time limits, further tries, stopping. Its jobs are lines of shell here."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.waiting import PATIENCE, is_alive, wait_for
from trust_exp.errors import UserError
from trust_exp.launch import process
from trust_exp.launch.board import Board
from trust_exp.launch.process import Pool, default_workers, gpu_sets, handling_signals, work_through
from trust_exp.launch.sweep import make_ready, write_failure
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.runs import lock

WAIT = "touch ready; while :; do sleep 0.05; done"
OPTIONS = {"workers": 2, "gpus": None, "timeout_min": None, "retries": 0, "grace_s": PATIENCE}
GPU, CPU = {"kind": "auto", "devices": 1}, {"kind": "cpu", "devices": 2}


def work(jobs: list[SweepJob], **options: object) -> None:
    work_through(jobs, {**OPTIONS, **options}, Board(jobs, Path("sweep")))


def states(jobs: list[SweepJob]) -> list[str]:
    return [job.state for job in jobs]


def status(job: SweepJob) -> object:
    return job.result().get("status")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch):
    return lambda value: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)


def test_as_many_jobs_run_at_a_time_as_there_are_slots(make_job, shell_jobs, succeed, tmp_path):
    jobs = [make_job(number, succeed) for number in range(1, 7)]
    seen = []
    board = Board(jobs, Path("sweep"))
    board.tick = lambda **_: seen.append(states(jobs).count("running"))
    work_through(jobs, {**OPTIONS, "workers": 3}, board)
    assert states(jobs) == ["done"] * 6
    assert max(seen) == 3
    assert not list(tmp_path.glob("*/job-*.json"))


def test_a_job_that_fails_touches_no_other_and_says_why(make_job, shell_jobs, succeed, capsys):
    jobs = [
        make_job(1),
        make_job(2, "echo error: no such data >&2; exit 2"),
        make_job(3, "kill -9 $$"),
        make_job(4, "exit 3"),
        make_job(5, "exit 130"),
        make_job(6, 'echo \'{"status": "failed", "error": "ValueError: too big"}\' > result.json; exit 1'),
        make_job(7, "echo Traceback; echo 'ImportError: no torch'; exit 1"),
    ]
    work(jobs)
    assert states(jobs) == ["done", *["failed"] * 6]
    assert [job.reason for job in jobs[1:]] == [
        "no such data",
        "killed by SIGKILL (out of memory, perhaps)",
        "ended with exit code 3",
        "stopped by a signal",
        "ValueError: too big",
        "ImportError: no torch",
    ]
    for job in jobs[1:]:
        assert (status(job), job.result()["error"]) == ("failed", job.reason)
    assert re.search(r"\[2/7\] cll-digits-0000000002 \(seed=2\) failed after \d+\.\d s", capsys.readouterr().err)


@pytest.fixture
def work_by_events(monkeypatch):
    """Let the launcher's clock jump by ten minutes whenever a running job has written the next of some files."""

    def work_on(job: SweepJob, *files: str, **options: object) -> None:
        board, left, jumped = Board([job], Path("sweep")), list(files), 0

        def tick(**_: object) -> None:
            nonlocal jumped
            if left and job.state == "running" and (job.run.folder / left[0]).exists():
                del left[0]
                jumped += 600

        board.tick = tick
        clock = SimpleNamespace(sleep=time.sleep, monotonic=lambda: time.monotonic() + jumped)
        monkeypatch.setattr(process, "time", clock)
        work_through([job], {**OPTIONS, **options}, board)

    return work_on


def test_a_job_that_takes_too_long_is_stopped(make_job, shell_jobs, work_by_events):
    job = make_job(1, f"trap 'touch saved; exit 130' TERM; {WAIT}")
    work_by_events(job, "ready", timeout_min=9, grace_s=PATIENCE)
    assert (job.state, job.reason) == ("failed", "timed out after 9 min")
    assert (status(job), job.result()["error"]) == ("failed", job.reason)
    assert (job.run.folder / "saved").exists()


def test_a_job_that_does_not_stop_in_time_is_killed_with_all_that_it_started(make_job, shell_jobs, work_by_events):
    job = make_job(1, f"trap 'touch asked' TERM; sleep {PATIENCE} & echo $! > child; {WAIT}")
    work_by_events(job, "ready", "asked", timeout_min=9, grace_s=540)
    assert (job.state, job.reason) == ("failed", "timed out after 9 min")
    assert not is_alive(int((job.run.folder / "child").read_text()))


def test_what_a_job_leaves_behind_ends_with_it(make_job, shell_jobs, succeed):
    job = make_job(1, f"sleep {PATIENCE} & echo $! > child; {succeed}")
    work([job])
    assert job.state == "done"
    assert not is_alive(int((job.run.folder / "child").read_text()))


def test_further_tries_go_on_and_mistakes_of_the_user_get_none(make_job, shell_jobs, succeed):
    jobs = [
        make_job(1, f"if [ $TRY = 1 ]; then touch checkpoint.ckpt; kill -9 $$; fi; {succeed}"),
        make_job(2, "exit 2"),
        make_job(3, "exit 1"),
    ]
    work(jobs, retries=2)
    assert states(jobs) == ["resumed", "failed", "failed"]
    assert [job.tries for job in jobs] == [2, 1, 3]
    assert jobs[0].reason == ""


def test_the_same_run_twice_runs_once(make_job, shell_jobs, succeed):
    shell = f"echo ran >> count; {succeed}"
    jobs = [make_job(1, shell, run="one"), make_job(2, shell, run="one"), make_job(3)]
    work(jobs, workers=3)
    assert states(jobs) == ["done", "skipped", "done"]
    assert (jobs[0].run.folder / "count").read_text() == "ran\n"


def test_force_forgets_what_was_done_once(make_job, shell_jobs, succeed):
    shell = f"ls >> seen; {succeed}"
    jobs = [make_job(1, shell, run="one", force=True), make_job(2, shell, run="one", force=True)]
    for name in ("weights.pt", "checkpoint.ckpt"):
        (jobs[0].run.folder / name).touch()
    board = Board(jobs, Path("sweep"))
    for job in jobs:
        make_ready(job, board)
    work(jobs)
    assert states(jobs) == ["done", "skipped"]
    assert (jobs[0].run.folder / "seen").read_text().count(".pt") == 0


def test_a_folder_that_cannot_be_used_fails_its_job_alone(make_job, shell_jobs):
    jobs = [make_job(1), make_job(2), make_job(3)]
    jobs[0].run.result.write_text('{"status": "do')
    jobs[1].run.folder.rmdir()
    work(jobs)
    assert states(jobs) == ["failed", "failed", "done"]
    assert "result.json cannot be read" in jobs[0].reason
    assert "No such file or directory" in jobs[1].reason


def test_a_run_that_another_process_took_over_keeps_that_process_result(make_job):
    job = make_job(1)
    with lock(job.run):
        assert write_failure(job, "killed") == "failed"
    assert not job.run.result.exists()


def work_and_signal(jobs: list[SweepJob], number: int, *files: str) -> None:
    """Work, and send the signal whenever each running job has written the next of some files."""
    board, left = Board(jobs, Path("sweep")), list(files)

    def tick(**_: object) -> None:
        running = [job.run.folder for job in jobs if job.state == "running"]
        if left and running and all((folder / left[0]).exists() for folder in running):
            del left[0]
            os.kill(os.getpid(), number)

    board.tick = tick
    work_through(jobs, OPTIONS, board)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_lets_jobs_save_themselves(make_job, shell_jobs, succeed, number, capsys):
    jobs = [
        make_job(1, f"trap 'touch saved; exit 130' TERM; {WAIT}"),
        make_job(2, f"trap '{succeed}; exit 0' TERM; {WAIT}"),
        make_job(3),
    ]
    work_and_signal(jobs, number, "ready")
    assert states(jobs) == ["stopped", "done", "stopped"]
    assert (jobs[0].run.folder / "saved").exists()
    assert jobs[2].reason == "not started"
    assert "stopping 2 jobs, each at a safe point; once more kills at once" in capsys.readouterr().err


def test_a_second_signal_kills(make_job, shell_jobs):
    job = make_job(1, f"trap 'touch asked' TERM; echo $$ > pid; {WAIT}")
    work_and_signal([job], signal.SIGINT, "ready", "asked")
    assert job.state == "stopped"
    assert not is_alive(int((job.run.folder / "pid").read_text()))


def test_two_signals_at_once_kill_as_well(make_job, shell_jobs):
    """Both may come before the first is looked at."""
    job = make_job(1, f"trap 'touch asked' TERM; {WAIT}")
    work_and_signal([job], signal.SIGINT, "ready", "ready")
    assert job.state == "stopped"


def test_jobs_save_themselves_when_nobody_listens_any_more(make_job, shell_jobs, monkeypatch):
    """Ctrl-C in ``run.py -m ... 2>&1 | tee log`` ends tee as well; a closed terminal refuses each word, too."""
    reader, writer = os.pipe()
    os.close(reader)
    job = make_job(1, f"trap 'touch saved; exit 130' TERM; {WAIT}")
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        work_and_signal([job], signal.SIGINT, "ready")
        with suppress(OSError):
            closed.close()
    assert job.state == "stopped"
    assert (job.run.folder / "saved").exists()


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling_signals(lambda *_: None):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_each_slot_has_its_gpus_and_its_share_of_the_cores(make_job, shell_jobs, succeed, cuda, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setattr(process, "cores", lambda: 8)
    cuda("4,5,6,7")
    shell = f'echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $SLURM_NTASKS" > env; {succeed}'
    jobs = [make_job(number, shell, devices=2) for number in (1, 2, 3)]
    work(jobs, workers=None)
    said = [(job.run.folder / "env").read_text().strip() for job in jobs]
    assert said[:2] == ["4,5 4", "6,7 4"]
    assert said[2] in said[:2]


@pytest.mark.parametrize(
    ("visible", "given", "accelerators", "sets"),
    [
        ("0,1,2", None, [GPU], ["0", "1", "2"]),
        ("0,1,2,3,4", None, [GPU, {"kind": "gpu", "devices": 2}], ["0,1", "2,3"]),
        ("GPU-1a,GPU-2b", None, [GPU], ["GPU-1a", "GPU-2b"]),
        ("0,1", None, [CPU], []),
        ("", None, [GPU], []),
        ("-1", None, [GPU], []),
        ("0,1", ["3", "4,5"], [GPU], ["3", "4,5"]),
        ("0,1", ["3"], [CPU], ["3"]),
    ],
    ids=["all", "pairs", "uuids", "cpu", "none", "minus-one", "given", "given-cpu"],
)
def test_gpu_sets(cuda, visible, given, accelerators, sets):
    cuda(visible)
    assert gpu_sets(given, accelerators) == sets


def test_too_few_gpus_are_said(cuda):
    cuda("0")
    with pytest.raises(UserError, match=r"accelerator.devices=2 needs more GPUs than the 1 of this machine"):
        gpu_sets(None, [{"kind": "gpu", "devices": 2}])
    with pytest.raises(UserError, match=r"needs 2 GPUs a job; hydra.launcher.gpus gives 1"):
        gpu_sets(["0", "1"], [{"kind": "gpu", "devices": 2}])


@pytest.mark.parametrize(
    ("program", "found"), [("echo 0; echo 1", ["0", "1"]), ("echo no devices; exit 9", []), (None, [])], ids=str
)
def test_gpus_are_asked_of_the_driver(tmp_path, monkeypatch, program, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert process.visible_gpus() == found


@pytest.mark.parametrize(
    ("gpus", "where", "workers"),
    [
        (["0", "1"], {"threads": 1, "devices": 1}, 2),
        ([], {"threads": None, "devices": 1}, 2),
        ([], {"threads": 1, "devices": 1}, 8),
        ([], {"threads": 1, "devices": 2}, 4),
        ([], {"threads": 16, "devices": 1}, 1),
    ],
    ids=["gpus", "no-threads-named", "one-thread", "two-devices", "more-than-there-are"],
)
def test_how_many_jobs_run_when_nobody_says(monkeypatch, gpus, where, workers):
    monkeypatch.setattr(process, "cores", lambda: 8)
    assert default_workers(gpus, [{"accelerator": where}]) == workers


def test_several_nodes_are_refused(make_job):
    with pytest.raises(UserError, match=r"accelerator.nodes must be 1 on one machine"):
        Pool([make_job(1, nodes=2)], OPTIONS, Board([], Path("sweep")))


def test_jobs_end_when_their_launcher_is_killed(tmp_path):
    """As ``python -m trust_exp.jobs --parent`` does it, without its imports."""
    child = (
        "import sys, time; from trust_exp.jobs import end_with;"
        "end_with(int(sys.argv[1])); print('ready', flush=True); time.sleep(int(sys.argv[2]))"
    )
    parent = (
        "import os, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2]],"
        "stdout=subprocess.PIPE, start_new_session=True);"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", parent, child, str(PATIENCE)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(launcher.stdout.readline())
    assert is_alive(pid)
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: not is_alive(pid))


# --- refused ---------------------------------------------------------------------------------------------------------

REFUSE = """printf '{"status": "failed", "error": "no such data"}' > result.json; exit 2"""


def swept(jobs: list[SweepJob]) -> Board:
    """What ``launch`` does with composed jobs."""
    board = Board(jobs, Path("sweep"))
    for job in jobs:
        make_ready(job, board)
    try:
        work_through([job for job in jobs if job.state == "waiting"], OPTIONS, board)
    finally:
        for job in jobs:
            job.tidy()
    return board


def test_a_job_that_is_refused_leaves_no_folder_and_one_that_fails_its_own(make_job, shell_jobs):
    refused, failed, done, child = (
        make_job(1, REFUSE),
        make_job(2, REFUSE.replace("exit 2", "exit 1")),
        make_job(3),
        make_job(4),
    )
    child.needs = [refused]
    swept([refused, failed, done, child])
    assert [job.state for job in (refused, failed, done, child)] == ["failed", "failed", "done", "failed"]
    assert (refused.reason, failed.reason) == ("no such data", "no such data")
    assert [job.run.folder.exists() for job in (refused, failed, done, child)] == [False, True, True, False]
    assert failed.log.exists()


def test_a_run_that_existed_keeps_everything_when_its_job_is_refused(make_job, shell_jobs):
    begun, forced = make_job(1, REFUSE), make_job(2, REFUSE, force=True)
    begun.run.checkpoint.touch()
    forced.run.weights.write_text("weights")
    forced.run.result.write_text('{"status": "done"}')
    swept([begun, forced])
    assert [job.state for job in (begun, forced)] == ["failed", "failed"]
    assert begun.run.checkpoint.exists()
    assert begun.result()["error"] == "no such data"
    assert forced.run.weights.read_text() == "weights"
    assert forced.result() == {"status": "done"}


def test_a_forced_job_that_was_trained_anew_is_not_what_it_was(make_job, shell_jobs, succeed):
    done, failed = make_job(1, force=True), make_job(2, "exit 1", force=True)
    for job in (done, failed):
        job.run.weights.write_text("weights")
        job.run.result.write_text('{"status": "done", "metrics": {}}')
    swept([done, failed])
    assert (done.state, failed.state) == ("done", "failed")
    assert done.run.weights.read_text() == ""
    assert not failed.run.weights.exists()
    assert not list(done.run.folder.parent.glob("*/.earlier"))


def test_a_sweep_that_is_refused_as_a_whole_undoes_what_it_made_ready(make_job, shell_jobs):
    new, forced = make_job(1, nodes=2), make_job(2, force=True, nodes=2)
    forced.run.weights.write_text("weights")
    with pytest.raises(UserError, match=r"accelerator\.nodes must be 1"):
        swept([new, forced])
    assert not new.run.folder.exists()
    assert forced.run.weights.read_text() == "weights"
