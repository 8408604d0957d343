"""Jobs without a network: jobs whose processes are a line of shell each."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from trust_exp.job import Job
from trust_exp.launch import process
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.results.record import Row
from trust_exp.runs import Run


def result_of(*found: Row, **others: object) -> str:
    """What a run that is done writes into result.json."""
    rows = [{"suite": row.metric.partition("/")[0], **asdict(row)} for row in found]
    return json.dumps({"status": "done", "rows": rows, **others})


DONE = result_of(Row("clean/accuracy", 0.5), metrics={"clean/accuracy": 0.5})
SUCCEED = 'printf "%s" "$DONE" > result.json; touch weights.pt'


@pytest.fixture
def succeed() -> str:
    """What a job does that is done."""
    return SUCCEED


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., SweepJob]:
    """Make a job; ``shell`` is what its process does, in its run's folder."""

    def make(
        number: int, shell: str = SUCCEED, *, run: str | None = None, force: bool = False, **where: object
    ) -> SweepJob:
        folder = tmp_path / (run or f"cll-digits-{number:010x}")
        folder.mkdir(exist_ok=True)
        accelerator = {"kind": "auto", "devices": 1, "nodes": 1, "threads": 1, **where}
        config = {"mode": "train", "force": force, "eval": {}, "shell": shell, "sweep": "test"}
        return SweepJob(number, f"seed={number}", Job({**config, "accelerator": accelerator}, Run(folder), []))

    return make


@pytest.fixture
def shell_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the launcher start the jobs' shell lines."""

    def start(job: SweepJob, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with open(job.log, "ab") as log:
            log.write(b"--- try\n")
            log.flush()
            return subprocess.Popen(
                ["sh", "-c", job.config["shell"]],
                cwd=job.run.folder,
                env={**environment, "TRY": str(job.tries), "DONE": DONE},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    monkeypatch.setattr(process, "start_process", start)
