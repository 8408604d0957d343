"""One process per job on this machine: slots, GPUs, time limits, retries."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from trust_exp.errors import UserError
from trust_exp.launch.board import Board, plural
from trust_exp.launch.sweep import HEADING, end, give_up, judge, prepare
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.runs import holder

POLL_SECONDS = 0.05
HELD_SECONDS = 2.0
THREADS_A_JOB = 4
MOST_WORKERS = 16


def work_through(jobs: Sequence[SweepJob], options: Mapping[str, Any], board: Board) -> None:
    """Run the jobs, ``workers`` at a time, until all have ended or the sweep is stopped."""
    if jobs:
        requests = StopRequests()
        with handling_signals(requests):
            Pool(jobs, options, board, requests).run()


@dataclass
class Working:
    """A running job: its process, slot and deadline."""

    job: SweepJob
    process: "subprocess.Popen[bytes]"
    slot: int
    deadline: float
    why: str = ""  # why the launcher stopped it, if it did
    kill_at: float = float("inf")

    def stop(self, grace: float, why: str) -> None:
        """Ask the job to write a checkpoint and end; kill it if it has not after ``grace`` seconds."""
        self.why, self.kill_at = why, time.monotonic() + grace
        self.process.terminate()

    def kill(self) -> None:
        """Kill the job and all processes that it started, which share its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class StopRequests:
    """Counts signals to stop. It raises nothing, as an exception in a handler could lose a process just started."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.count += 1


class Pool:
    """Slots that run the jobs of a queue."""

    def __init__(
        self, jobs: Sequence[SweepJob], options: Mapping[str, Any], board: Board, requests: StopRequests | None = None
    ) -> None:
        self.queue, self.board, self.requests = list(jobs), board, requests or StopRequests()
        if any(job.config["accelerator"]["nodes"] > 1 for job in jobs):
            raise UserError("accelerator.nodes must be 1 on one machine; several need hydra/launcher=slurm")
        self.retries, self.grace = options["retries"], options["grace_s"]
        self.limit = (options["timeout_min"] or float("inf")) * 60
        self.gpus = gpu_sets(options["gpus"], [job.config["accelerator"] for job in jobs])
        self.workers = options["workers"] or default_workers(self.gpus, [job.config for job in jobs])
        self.working: dict[int, Working] = {}  # by slot
        self.held: dict[SweepJob, float] = {}  # jobs whose run another process holds -> when to check again

    def run(self) -> None:
        """Run until all jobs have ended or a signal asks to stop."""
        try:
            while (self.queue or self.working) and not self.requests.count:
                self.fill()
                self.look()
                self.board.tick()
                time.sleep(POLL_SECONDS)
            if self.requests.count:
                self.stop_all()
        finally:
            for working in self.working.values():  # no process outlives the sweep, whatever happens
                working.kill()

    def fill(self) -> None:
        """Start jobs in free slots: never two on the same run, and none before its sources are trained."""
        for orphan in [job for job in self.queue if job.lost]:
            self.queue.remove(orphan)
            give_up(orphan, self.board)
        for slot in range(self.workers):
            if slot not in self.working:
                job = next((job for job in self.queue if self.is_free(job)), None)
                if job is not None:
                    self.queue.remove(job)
                    self.start(job, slot)

    def is_free(self, job: SweepJob) -> bool:
        """Whether a job can start: its sources are trained and no process, here or elsewhere, holds its run."""
        if not job.is_ready:
            return False
        if any(working.job.run.folder == job.run.folder for working in self.working.values()):
            return False
        if time.monotonic() < self.held.get(job, 0.0):
            return False
        if by := holder(job.run):
            if job not in self.held:
                self.board.note(f"{job.name} is being run by {by}; the sweep comes back to it")
            self.held[job] = time.monotonic() + HELD_SECONDS
        return not by

    def start(self, job: SweepJob, slot: int) -> None:
        """Start a job's process; skip it if another job has done the run in the meantime."""
        try:
            if not job.config["force"] and job.spec.is_done():
                end(job, "skipped", board=self.board)
                return
            prepare(job)
            process = start_process(job, self.environment(slot))
        except (UserError, OSError) as error:
            end(job, "failed", str(error), self.board)
            return
        self.working[slot] = Working(job, process, slot, time.monotonic() + self.limit)
        end(job, "running", board=self.board)

    def environment(self, slot: int) -> dict[str, str]:
        """Environment of a slot: its GPUs, and its share of the cores unless the user sets OMP_NUM_THREADS."""
        # On a node of a cluster: the job is no job of the allocation that the sweep runs in.
        given = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        if self.gpus:
            given["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        given.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.workers)))
        return given

    def look(self) -> None:
        """Handle ended jobs, stop those past their deadline, and kill those that do not stop."""
        now = time.monotonic()
        for slot, working in list(self.working.items()):
            if working.process.poll() is not None:
                del self.working[slot]
                self.ended(working)
            elif now > working.kill_at:
                working.kill()
            elif now > working.deadline and not working.why:
                working.stop(self.grace, f"timed out after {self.limit / 60:.3g} min")

    def ended(self, working: Working) -> None:
        """Set the state of an ended job, or queue it again."""
        job, code = working.job, working.process.returncode
        working.kill()  # processes that it left behind
        if holder(job.run) and not working.why:  # another sweep took the run first: try again later
            job.tries -= 1
            end(job, "waiting", board=self.board)
            self.queue.append(job)
            return
        judge(job, code, self.board, why=working.why)
        if job.state == "failed" and code != 2 and job.tries <= self.retries:
            job.state = "waiting"
            self.queue.append(job)

    def stop_all(self) -> None:
        """Let all jobs write a checkpoint and end; a second signal kills them."""
        self.board.note(f"stopping {plural(len(self.working), 'job')}, each at a safe point; once more kills at once")
        for working in self.working.values():
            working.stop(self.grace, "stopped")
        while self.requests.count < 2 and any(work.process.poll() is None for work in self.working.values()):
            for working in self.working.values():
                if time.monotonic() > working.kill_at:
                    working.kill()
            self.board.tick()
            time.sleep(POLL_SECONDS)
        for working in self.working.values():
            working.kill()
            working.process.wait()
            if working.process.returncode == 0:
                judge(working.job, 0, self.board)
            else:
                end(working.job, "stopped", board=self.board)
        self.working.clear()
        for job in self.queue:
            end(job, "stopped", "not started again" if job.tries else "not started")


def start_process(job: SweepJob, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a job's process; its output is appended to the log in its run's folder."""
    command = [sys.executable, "-m", "trust_exp.jobs", str(job.job_file), "--parent", str(os.getpid())]
    with open(job.log, "ab") as log:
        log.write(f"{HEADING}try {job.tries} of {' '.join(job.spec.overrides)}\n".encode(errors="replace"))
        log.flush()
        # In its own session Ctrl-C reaches it only through the launcher, and all its processes can be killed together.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with ``handler`` while the body runs."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(gpus: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> int:
    """One job per set of GPUs; on the CPU as many as the cores allow, at four threads each by default."""
    if gpus:
        return len(gpus)
    threads = max(
        (config["accelerator"]["threads"] or THREADS_A_JOB) * config["accelerator"]["devices"] for config in configs
    )
    return max(1, min(MOST_WORKERS, cores() // threads))


def gpu_sets(given: Sequence[str] | None, accelerators: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sets of GPUs, one per slot, as values of CUDA_VISIBLE_DEVICES; empty if no job uses a GPU.

    Raises:
        UserError: if a job needs more GPUs than a set has.
    """
    most = max((where["devices"] for where in accelerators if where["kind"] != "cpu"), default=0)
    if given is not None:
        sets = list(given)
    else:
        found = visible_gpus() if most else []
        sets = [",".join(found[at : at + most]) for at in range(0, len(found) - most + 1, most)] if most else []
        if found and not sets:
            raise UserError(f"accelerator.devices={most} needs more GPUs than the {len(found)} of this machine")
    if sets and (least := min(len(group.split(",")) for group in sets)) < most:
        raise UserError(f"accelerator.devices={most} needs {most} GPUs a job; hydra.launcher.gpus gives {least}")
    return sets


def visible_gpus() -> list[str]:
    """The GPUs of this machine that are visible, by index or UUID."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []
