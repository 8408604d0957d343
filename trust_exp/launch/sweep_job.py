"""A job of a sweep: its state, the jobs that it builds on, and what it left behind."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trust_exp.errors import UserError
from trust_exp.job import Job
from trust_exp.runs import Run

OPEN = ("waiting", "running")
GOOD = ("done", "resumed", "skipped")


@dataclass(eq=False)
class SweepJob:
    """One job of a sweep and how far it is."""

    number: int
    label: str  # the overrides in which it differs from the other jobs
    spec: Job
    state: str = "waiting"  # then running; at the end done, resumed, skipped, failed or stopped
    reason: str = ""
    tries: int = 0
    seconds: float = 0.0
    goes_on: bool = False  # whether it started from a checkpoint
    seen: int = field(default=0, repr=False)  # when result.json was last written before this try
    needs: list["SweepJob"] = field(default_factory=list, repr=False)  # jobs whose runs this one builds on

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
    def ask(self) -> Path:
        """What ``python -m trust_exp.jobs`` reads."""
        return self.spec.ask

    @property
    def log(self) -> Path:
        return self.run.folder / "log.txt"

    @property
    def is_ready(self) -> bool:
        """Whether the runs that it builds on are trained; their evals may go on."""
        return all(job.state in GOOD or job.run.is_trained for job in self.needs)

    @property
    def lost(self) -> "SweepJob | None":
        """A job that it builds on and that has ended without weights."""
        ended = (job for job in self.needs if job.state not in (*OPEN, *GOOD))
        return next((job for job in ended if not job.run.is_trained), None)

    def result(self) -> dict[str, Any]:
        """Its result.json; empty if there is none or it is not whole."""
        with suppress(UserError):
            return self.run.read("result.json") or {}
        return {}

    def last_words(self, log: Path | None = None) -> str:
        """The last line that it wrote."""
        try:
            with open(log or self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
