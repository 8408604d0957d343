"""The run's side of Weights & Biases: a separate process talks to W&B, so that W&B cannot delay a run.

The run only puts lines into a queue. It is not affected if W&B is slow, its server is down, its service is killed or
wandb cannot be imported. ``wandb_process`` is the other side. Imports no wandb.
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

from trust_exp.console import say
from trust_exp.loggers.base import CsvCurves
from trust_exp.runs import Run

LOCAL_SECONDS = 15  # for importing wandb and writing its files on a slow machine


class Wandb(CsvCurves):
    """One W&B run per run, under the run's id; a resumed job continues it."""

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
    """Passes Lightning's metrics to the writer."""

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
        """Nothing to do: the writer has the configuration from the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.writer.send(curves={**{name: float(value) for name, value in metrics.items()}, "step": step})


class Writer:
    """The process that talks to W&B: it reads JSON lines, and its output is shown to the user.

    Args:
        folder: for W&B's files and the errors of the process.
        ask: the W&B run to open; see ``wandb_process``.
    """

    def __init__(self, folder: Path, ask: Mapping[str, Any]) -> None:
        self.lines: SimpleQueue[str | None] = SimpleQueue()
        self.process: subprocess.Popen[str] | None = None
        self.ended_well = False
        try:
            folder.mkdir(exist_ok=True)
            with open(folder / "errors.txt", "a", encoding="utf-8") as errors:
                # In its own session it survives signals to the job, and can close the W&B run.
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "trust_exp.loggers.wandb_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
        except OSError as error:
            say(f"W&B is not used: {error}")
            return
        self.threads = [Thread(target=target, daemon=True) for target in (self._write, self._listen)]
        for thread in self.threads:
            thread.start()
        self.send(ask={**ask, "parent": os.getpid()})

    def send(self, **message: Any) -> None:
        """Queue a message; never blocks, never raises."""
        if self.process is not None and self.process.poll() is None:
            self.lines.put(json.dumps(message, default=str))

    def close(self, seconds: float) -> None:
        """Wait up to ``seconds`` for the process to end, and report if it failed."""
        if self.process is None:
            return
        self.lines.put(None)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            say(f"W&B did not end within {seconds:g} s and was killed; the run itself is complete")
            return
        self.threads[1].join(1)
        if not self.ended_well:
            say(f"W&B ended before the run did (exit code {self.process.returncode}); the run itself is complete")

    def _write(self) -> None:
        if self.process is None or self.process.stdin is None:
            return
        with suppress(OSError):  # the process is gone; close reports it
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
