"""A job of a sweep: its state, the jobs that it builds on, and what it left behind."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trust_exp.errors import UserError
from trust_exp.job import Job
from trust_exp.runs import Run, forget, forget_earlier, lock, put_back

OPEN = ("waiting", "running")
GOOD = ("done", "resumed", "skipped")


@dataclass(eq=False)
class SweepJob:
    """One job of a sweep and its progress."""

    number: int
    label: str  # the overrides that distinguish it from the other jobs
    spec: Job
    state: str = "waiting"  # then running; at the end done, resumed, skipped, failed or stopped
    reason: str = ""
    tries: int = 0
    seconds: float = 0.0
    goes_on: bool = False  # whether it continues from a checkpoint
    new: bool = False  # whether the sweep has made its folder
    anew: bool = False  # whether its results were set aside, as force=true starts it anew
    refused: bool = False  # whether its process or a source ended with the code of a user's mistake
    seen: int = field(default=0, repr=False)  # modification time of result.json before this try
    needs: list["SweepJob"] = field(default_factory=list, repr=False)  # jobs that train the sources of this one

    @property
    def run(self) -> Run:
        return self.spec.run

    @property
    def config(self) -> dict[str, Any]:
        return self.spec.config

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def job_file(self) -> Path:
        """The file that ``python -m trust_exp.jobs`` reads."""
        return self.spec.job_file

    @property
    def log(self) -> Path:
        return self.run.folder / "log.txt"

    @property
    def is_ready(self) -> bool:
        """Whether its sources are trained; their evals may still be running."""
        return all(job.state in GOOD or job.run.is_trained for job in self.needs)

    @property
    def lost(self) -> "SweepJob | None":
        """A source that has ended without weights, if there is one."""
        ended = (job for job in self.needs if job.state not in (*OPEN, *GOOD))
        return next((job for job in ended if not job.run.is_trained), None)

    def tidy(self) -> None:
        """Undo what was made for a job that was refused or never started, unless it has begun or goes on elsewhere."""
        if self.job_file.exists():
            return
        idle = self.state not in GOOD and (self.refused or not self.tries)
        if self.new and idle:
            forget(self.run)
        elif self.anew:
            with suppress(UserError, OSError), lock(self.run):
                (put_back if idle or self.state == "stopped" else forget_earlier)(self.run)

    def result(self) -> dict[str, Any]:
        """The content of its result.json; empty if the file is missing or invalid."""
        with suppress(UserError):
            return self.run.read("result.json") or {}
        return {}

    def last_words(self, log: Path | None = None) -> str:
        """The last line of its log."""
        try:
            with open(log or self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
