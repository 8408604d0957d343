"""A SLURM job on its node: a child process that runs the job, and an exit file that records how it ended.

submitit's process is a thin wrapper: on the signal before the time limit it lets the child write a checkpoint and
requeues the job. It imports nothing heavy, so that it handles signals as early as possible.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from trust_exp import durable

POLL_SECONDS = 0.1
STOPPED = (130, -signal.SIGTERM, -signal.SIGKILL)


class NodeJob:
    """One task of a SLURM job; submitit pickles it.

    Args:
        job_file: absolute path of the file that ``python -m trust_exp.jobs`` reads.
        grace: seconds that the run has to write a checkpoint after the signal.
    """

    def __init__(self, job_file: str, grace: float) -> None:
        self.job_file, self.grace = job_file, grace
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the job and exit with its exit code, so that SLURM sees a failure on any rank."""
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        command = [sys.executable, "-m", "trust_exp.jobs", self.job_file, "--parent", str(os.getpid())]
        with open(log_file(Path(self.job_file), rank), "ab") as log:
            log.write(f"--- SLURM job {JobEnvironment().job_id}, rank {rank}\n".encode())
            log.flush()
            self.child = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_ignore_the_warning)
        try:
            code = wait(self.child)
        except UncompletedJobError as error:  # timed out too often; raised by submitit's signal handler
            write_exit(Path(self.job_file), rank, 1, str(error))
            raise
        if rank and code in STOPPED[:2]:
            return  # rank 0 decides; a nonzero exit here would end the job before it is requeued
        write_exit(Path(self.job_file), rank, code)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """Let the run write a checkpoint; submitit calls this on the signal, before it requeues the job."""
        if self.child is not None:  # the signal may come before the child is started
            self.child.terminate()
            end = time.monotonic() + self.grace
            while _is_alive(self.child.pid) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
        return DelayedSubmission(NodeJob(self.job_file, self.grace))


def wait(child: "subprocess.Popen[bytes]") -> int:
    """Wait for the exit code; polls, as the signal handler would deadlock on the lock that Popen.wait holds."""
    while _is_alive(child.pid):
        time.sleep(POLL_SECONDS)
    return child.wait()


def _is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _ignore_the_warning() -> None:
    # SLURM signals all processes of the job; the run is told by checkpoint().
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")  # as submitit chooses it
    signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)


def log_file(job_file: Path, rank: int) -> Path:
    """The log file of a rank."""
    return job_file.parent / ("log.txt" if rank == 0 else f"log-{rank}.txt")


def write_exit(job_file: Path, rank: int, code: int, why: str = "") -> None:
    """Record how a rank ended."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    part = job_file.with_suffix(f".exit-{rank}.part")
    part.write_text(json.dumps({"rank": rank, "code": code, "why": why, "restarts": restarts}), encoding="utf-8")
    durable.put(part, job_file.with_suffix(f".exit-{rank}"))


def read_exits(job_file: Path) -> list[dict[str, Any]]:
    """The records of the ranks that have ended, sorted by rank."""
    exits = []
    for file in job_file.parent.glob(f"{job_file.stem}.exit-*[0-9]"):
        with suppress(FileNotFoundError):  # another command that watches the job has taken it
            exits.append(json.loads(file.read_text(encoding="utf-8")))
    return sorted(exits, key=lambda ended: int(ended["rank"]))


def forget_exits(job_file: Path) -> None:
    """Delete the exit files."""
    for file in job_file.parent.glob(f"{job_file.stem}.exit-*"):
        file.unlink(missing_ok=True)
