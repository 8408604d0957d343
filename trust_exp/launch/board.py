"""How a sweep is shown: a live table on a terminal, a line an event elsewhere, and the summary at the end."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trust_exp.results.table import console, say, value_text

if TYPE_CHECKING:
    from trust_exp.launch.sweep import Task

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
WIDE = 120  # columns, for the runs' names beside all else


class Board:
    """Shows a sweep while it runs; a context manager."""

    def __init__(self, tasks: Sequence["Task"], folder: Path) -> None:
        self.tasks, self.folder = tasks, folder
        self.began = time.monotonic()
        self.started: dict[int, float] = {}
        self.live: Live | None = None
        self.drawn = 0.0

    def __enter__(self) -> "Board":
        say(f"sweep {self.folder.name}: {plural(len(self.tasks), 'job')}")
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            with suppress(OSError):  # the terminal is gone
                self.live.stop()

    def changed(self, task: "Task") -> None:
        """A task went from one state to another."""
        if task.state == "running":
            self.started[task.number] = time.monotonic()
        elif task.number in self.started:
            task.seconds += time.monotonic() - self.started.pop(task.number)
        if self.live is None:
            width = len(str(self.tasks[-1].number))
            took = f" after {task.seconds:.1f} s" if task.seconds and task.state != "running" else ""
            again = f" (try {task.tries})" if task.tries > 1 and task.state == "running" else ""
            words = f": {task.reason}" if task.reason else ""
            number = f"[{task.number:>{width}}/{self.tasks[-1].number}]"
            say(f"{number} {name_of(task)} {task.state}{again}{took}{words}")
        self.tick(at_once=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.live is None:
            say(text)
        else:
            with suppress(OSError):
                self.live.console.print(text, highlight=False)

    def tick(self, *, at_once: bool = False) -> None:
        """Draw, if it is time."""
        wait = REDRAW_SECONDS_AT_A_CHANGE if at_once else REDRAW_SECONDS
        if self.live is not None and time.monotonic() - self.drawn > wait:
            self.drawn = time.monotonic()
            with suppress(OSError):
                self.live.update(self.table(self.live.console.width, self.live.console.height - 3), refresh=True)

    def table(self, width: int, most: int) -> Table:
        """The tasks that matter now, as many as fit: running, failed, those that ended last, those that come next."""
        latest_first = {"failed": -1, "done": -1, "resumed": -1}
        shown = sorted(
            self.tasks, key=lambda task: (URGENCY[task.state], task.number * latest_first.get(task.state, 1))
        )
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=width // 3)
        if width >= WIDE:
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for task in sorted(shown[: max(1, most)], key=lambda task: task.number):
            seconds = task.seconds + time.monotonic() - self.started.get(task.number, time.monotonic())
            words = task.last_words() if task.state == "running" else task.reason or headline(task.result())
            table.add_row(
                str(task.number),
                Text(task.label or task.name),
                *([Text(task.name)] if width >= WIDE else []),
                Text(task.state, style=COLOURS[task.state]),
                f"{seconds:.0f} s" if seconds else "",
                Text(words, style="dim"),
            )
        table.caption = f"{counts(self.tasks)}  {time.monotonic() - self.began:.0f} s"
        table.caption_justify = "left"
        return table


def plural(count: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def name_of(task: "Task") -> str:
    """Which run it is and what sets it apart in the sweep."""
    return f"{task.name} ({task.label})" if task.label else task.name


def counts(tasks: Sequence["Task"]) -> str:
    """How many tasks are in which state, in words."""
    states = Counter(task.state for task in tasks)
    return ", ".join(f"{states[state]} {state}" for state in COLOURS if states[state])


def headline(result: Mapping[str, Any]) -> str:
    """The first number of each suite."""
    return "  ".join(f"{metric} {value}" for metric, value in headlines(result).items())


def headlines(result: Mapping[str, Any]) -> dict[str, str]:
    """The first metric of each suite, printed."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in result.get("rows", []):
        first.setdefault(row["suite"], row)
    return {row["metric"]: value_text(row["value"], row["unit"]) for row in first.values()}


def print_summary(tasks: Sequence["Task"], seconds: float) -> None:
    """Print how each job ended, its first numbers, and what failed and why."""
    try:
        _print_summary(tasks, seconds)
    except (OSError, SystemExit):  # nobody reads it, and rich then exits; nor may what is in the buffer fail at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_summary(tasks: Sequence["Task"], seconds: float) -> None:
    numbers = {task.number: headlines(task.result()) if task.state != "failed" else {} for task in tasks}
    metrics = list(dict.fromkeys(metric for values in numbers.values() for metric in values))
    out = console()
    wide = out.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for title in ("", "job", *(["run"] if wide else []), "ended", "seconds", *metrics):
        left = title in ("job", "run", "ended")
        table.add_column(title, justify="left" if left else "right", no_wrap=title != "job", overflow="fold")
    for task in tasks:
        took = f"{task.seconds:.1f}" if task.seconds else ""
        values = [numbers[task.number].get(metric, "") for metric in metrics]
        run = [Text(task.name)] if wide else []
        table.add_row(str(task.number), Text(task.label or task.name), *run, task.state, took, *values)
    print()
    out.print(table)
    print(f"\n{plural(len(tasks), 'job')} in {seconds:.1f} s: {counts(tasks)}", flush=True)
    for task in tasks:
        if task.state == "failed":
            log = f"\n        log: {shown(task.log)}" if task.log.exists() else ""
            print(f"failed: {name_of(task)}: {task.reason}{log}", flush=True)


def shown(path: Path) -> Path:
    """A path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
