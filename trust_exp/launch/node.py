"""What a SLURM job does on its node: one child process with the run, and an exit file that says how it ended.

submitit's own process stays a thin shell around it: it hears the warning before the time limit from its first moment,
lets the child save itself, and queues the job again. Imports nothing heavy, so that this moment comes soon.
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

POLL_SECONDS = 0.1
STOPPED = (130, -signal.SIGTERM, -signal.SIGKILL)


class NodeJob:
    """One task of a SLURM job; submitit pickles it.

    Args:
        ask: absolute path of the file that ``python -m trust_exp.jobs`` reads.
        grace: seconds that the run gets to save itself after the warning.
    """

    def __init__(self, ask: str, grace: float) -> None:
        self.ask, self.grace = ask, grace
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the job; ends this process with its exit code, so that SLURM knows of a failure on any rank."""
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        command = [sys.executable, "-m", "trust_exp.jobs", self.ask, "--parent", str(os.getpid())]
        with open(log_file(Path(self.ask), rank), "ab") as log:
            log.write(f"--- SLURM job {JobEnvironment().job_id}, rank {rank}\n".encode())
            log.flush()
            self.child = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_deaf_to_the_warning)
        try:
            code = wait(self.child)
        except UncompletedJobError as error:  # out of time once more than allowed: submitit says so from its handler
            write_exit(Path(self.ask), rank, 1, str(error))
            raise
        if rank and code in STOPPED[:2]:
            return  # rank 0 decides what becomes of the job; a bad exit here would end it before it is queued again
        write_exit(Path(self.ask), rank, code)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit on the warning, before it queues the job again: let the run save itself."""
        if self.child is not None:  # the warning may come before it is started
            self.child.terminate()
            end = time.monotonic() + self.grace
            while _is_alive(self.child.pid) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
        return DelayedSubmission(NodeJob(self.ask, self.grace))


def wait(child: "subprocess.Popen[bytes]") -> int:
    """Its exit code. Not only Popen.wait: the handler interrupts this loop and must not find its lock taken."""
    while _is_alive(child.pid):
        time.sleep(POLL_SECONDS)
    return child.wait()


def _is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _deaf_to_the_warning() -> None:
    # SLURM sends the warning to all processes of the job; the run hears of it through checkpoint().
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")  # submitit's own way to choose it
    signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)


def log_file(ask: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return ask.parent / ("log.txt" if rank == 0 else f"log-{rank}.txt")


def write_exit(ask: Path, rank: int, code: int, why: str = "") -> None:
    """Say how a rank's run ended."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    part = ask.with_suffix(f".exit-{rank}.part")
    part.write_text(json.dumps({"rank": rank, "code": code, "why": why, "restarts": restarts}))
    os.replace(part, ask.with_suffix(f".exit-{rank}"))


def read_exits(ask: Path) -> list[dict[str, Any]]:
    """How the ranks ended that have ended, by rank."""
    exits = []
    for file in ask.parent.glob(f"{ask.stem}.exit-*[0-9]"):
        with suppress(FileNotFoundError):  # another command that watches the job has judged it meanwhile
            exits.append(json.loads(file.read_text()))
    return sorted(exits, key=lambda ended: int(ended["rank"]))


def forget_exits(ask: Path) -> None:
    """Delete the exit files."""
    for file in ask.parent.glob(f"{ask.stem}.exit-*"):
        file.unlink(missing_ok=True)
