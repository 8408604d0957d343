"""The display of a sweep: a live table on a terminal, one line per event elsewhere, and the final summary."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trust_exp.console import console, say
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.results.table import value_text

COLOURS = {
    "done": "green",
    "resumed": "green",
    "skipped": "dim",
    "running": "cyan",
    "waiting": "dim",
    "failed": "red",
    "stopped": "yellow",
}
URGENCY = {"running": 0, "failed": 1, "done": 2, "resumed": 2, "stopped": 2, "skipped": 3, "waiting": 3}
REDRAW_SECONDS, REDRAW_SECONDS_AT_A_CHANGE = 0.5, 0.1
WIDE = 120  # terminal columns from which the runs' names fit too


class Board:
    """Shows a sweep while it runs; a context manager."""

    def __init__(self, jobs: Sequence[SweepJob], folder: Path) -> None:
        self.jobs, self.folder = jobs, folder
        self.began = time.monotonic()
        self.started: dict[int, float] = {}
        self.live: Live | None = None
        self.drawn = 0.0

    def __enter__(self) -> "Board":
        say(f"sweep {self.folder.name}: {plural(len(self.jobs), 'job')}")
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            with suppress(OSError):  # the terminal is gone
                self.live.stop()

    def changed(self, job: SweepJob) -> None:
        """Show that a job has changed its state."""
        if job.state == "running":
            self.started[job.number] = time.monotonic()
        elif job.number in self.started:
            job.seconds += time.monotonic() - self.started.pop(job.number)
        if self.live is None:
            width = len(str(self.jobs[-1].number))
            took = f" after {job.seconds:.1f} s" if job.seconds and job.state != "running" else ""
            again = f" (try {job.tries})" if job.tries > 1 and job.state == "running" else ""
            words = f": {job.reason}" if job.reason else ""
            number = f"[{job.number:>{width}}/{self.jobs[-1].number}]"
            say(f"{number} {name_of(job)} {job.state}{again}{took}{words}")
        self.tick(at_once=True)

    def note(self, text: str) -> None:
        """Print a line that stays above the live table."""
        if self.live is None:
            say(text)
        else:
            with suppress(OSError):
                self.live.console.print(text, highlight=False, markup=False)

    def tick(self, *, at_once: bool = False) -> None:
        """Redraw the live table if it is due."""
        wait = REDRAW_SECONDS_AT_A_CHANGE if at_once else REDRAW_SECONDS
        if self.live is not None and time.monotonic() - self.drawn > wait:
            self.drawn = time.monotonic()
            with suppress(OSError):
                self.live.update(self.table(self.live.console.width, self.live.console.height - 3), refresh=True)

    def table(self, width: int, most: int) -> Table:
        """The live table: as many jobs as fit, first running, then failed, last ended and next ones."""
        latest_first = {"failed": -1, "done": -1, "resumed": -1}
        shown = sorted(self.jobs, key=lambda job: (URGENCY[job.state], job.number * latest_first.get(job.state, 1)))
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=width // 3)
        if width >= WIDE:
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for job in sorted(shown[: max(1, most)], key=lambda job: job.number):
            seconds = job.seconds + time.monotonic() - self.started.get(job.number, time.monotonic())
            words = job.last_words() if job.state == "running" else job.reason or headline(job.result())
            table.add_row(
                str(job.number),
                Text(job.label or job.name),
                *([Text(job.name)] if width >= WIDE else []),
                Text(job.state, style=COLOURS[job.state]),
                f"{seconds:.0f} s" if seconds else "",
                Text(words, style="dim"),
            )
        table.caption = f"{counts(self.jobs)}  {time.monotonic() - self.began:.0f} s"
        table.caption_justify = "left"
        return table


def plural(count: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def name_of(job: SweepJob) -> str:
    """The name of its run, and the overrides that distinguish it in the sweep."""
    return f"{job.name} ({job.label})" if job.label else job.name


def counts(jobs: Sequence[SweepJob]) -> str:
    """The number of jobs in each state, such as ``3 done, 1 failed``."""
    states = Counter(job.state for job in jobs)
    return ", ".join(f"{states[state]} {state}" for state in COLOURS if states[state])


def headline(result: Mapping[str, Any]) -> str:
    """The first metric of each suite, on one line."""
    return "  ".join(f"{metric} {value}" for metric, value in headlines(result).items())


def headlines(result: Mapping[str, Any]) -> dict[str, str]:
    """The first metric of each suite and its formatted value."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in result.get("rows", []):
        first.setdefault(row["suite"], row)
    return {row["metric"]: value_text(row["value"], row["unit"]) for row in first.values()}


def print_summary(jobs: Sequence[SweepJob], seconds: float) -> None:
    """Print each job's final state and first metrics, and why jobs failed."""
    try:
        _print_summary(jobs, seconds)
    except (OSError, SystemExit):  # stdout is closed, and rich exits; flushing at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_summary(jobs: Sequence[SweepJob], seconds: float) -> None:
    numbers = {job.number: headlines(job.result()) if job.state != "failed" else {} for job in jobs}
    metrics = list(dict.fromkeys(metric for values in numbers.values() for metric in values))
    out = console()
    wide = out.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for title in ("", "job", *(["run"] if wide else []), "ended", "seconds", *metrics):
        left = title in ("job", "run", "ended")
        table.add_column(title, justify="left" if left else "right", no_wrap=title != "job", overflow="fold")
    for job in jobs:
        took = f"{job.seconds:.1f}" if job.seconds else ""
        values = [numbers[job.number].get(metric, "") for metric in metrics]
        run = [Text(job.name)] if wide else []
        table.add_row(str(job.number), Text(job.label or job.name), *run, job.state, took, *values)
    print()
    out.print(table)
    print(f"\n{plural(len(jobs), 'job')} in {seconds:.1f} s: {counts(jobs)}", flush=True)
    for job in jobs:
        if job.state == "failed":
            log = f"\n        log: {shown(job.log)}" if job.log.exists() else ""
            print(f"failed: {name_of(job)}: {job.reason}{log}", flush=True)


def shown(path: Path) -> Path:
    """A path relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
