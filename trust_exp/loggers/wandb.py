"""Weights & Biases, from a run's side: a process of its own speaks with it, so that nothing there can hold a run up.

The run only puts lines into a queue. Whether W&B is slow, its server is gone, its service is killed or it cannot even
be imported, the run does not notice; see ``wandb_process`` for the other side. Imports no wandb.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lightning.pytorch.loggers import Logger

from trust_exp.loggers.base import CsvCurves
from trust_exp.results.table import say
from trust_exp.runs import Run

LOCAL_SECONDS = 15  # for what a slow machine needs to import wandb and to write its files


class Wandb(CsvCurves):
    """One W&B run a run of ours, with its id; a resumed job continues it."""

    def __init__(self, run: Run, config: Mapping[str, Any], patience: float, **options: Any) -> None:
        super().__init__(run, config)
        where = {"folder": str(run.folder.resolve()), "id": run.id, "config": config}
        ask = {**where, "patience": patience, "local_seconds": LOCAL_SECONDS, **options}
        self.patience = patience
        self.writer = Writer(run.folder / "wandb", ask)

    def lightning(self) -> list[Logger]:
        return [*super().lightning(), Curves(self.writer, self.run.id)]

    def finish(self, result: Mapping[str, Any]) -> None:
        self.writer.send(result=result)
        self.writer.close(2 * self.patience + LOCAL_SECONDS)


class Curves(Logger):
    """Lightning's view of the writer."""

    def __init__(self, writer: "Writer", run_id: str) -> None:
        super().__init__()
        self.writer, self.run_id = writer, run_id

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run_id

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is known from the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.writer.send(curves={**{name: float(value) for name, value in metrics.items()}, "step": step})


class Writer:
    """The process that speaks with W&B: JSON lines go to it, and what it says is said to the user.

    Args:
        folder: where W&B's files and the process' own errors go.
        ask: what to open; see ``wandb_process``.
    """

    def __init__(self, folder: Path, ask: Mapping[str, Any]) -> None:
        self.lines: SimpleQueue[str | None] = SimpleQueue()
        self.process: subprocess.Popen[str] | None = None
        self.ended_well = False
        try:
            folder.mkdir(exist_ok=True)
            with open(folder / "errors.txt", "a") as errors:
                # A session of its own: what stops or kills the job's processes lets it close the W&B run first.
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "trust_exp.loggers.wandb_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
        except OSError as error:
            say(f"W&B is left out: {error}")
            return
        self.threads = [Thread(target=target, daemon=True) for target in (self._write, self._listen)]
        for thread in self.threads:
            thread.start()
        self.send(ask={**ask, "parent": os.getpid()})

    def send(self, **message: Any) -> None:
        """Hand a message over; never waits, never raises."""
        if self.process is not None and self.process.poll() is None:
            self.lines.put(json.dumps(message, default=str))

    def close(self, seconds: float) -> None:
        """Wait for the process to end, but not longer than that, and say if it did not end well."""
        if self.process is None:
            return
        self.lines.put(None)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            say(f"W&B did not end within {seconds:g} s and was left behind; the run itself is whole")
            return
        self.threads[1].join(1)
        if not self.ended_well:
            say(f"W&B ended before the run did (exit code {self.process.returncode}); the run itself is whole")

    def _write(self) -> None:
        if self.process is None or self.process.stdin is None:
            return
        with suppress(OSError):  # it is gone; close says so
            while (line := self.lines.get()) is not None:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
            self.process.stdin.close()

    def _listen(self) -> None:
        if self.process is None or self.process.stdout is None:
            return
        for line in self.process.stdout:
            if line == "end\n":
                self.ended_well = True
            else:
                say(line.rstrip())
