"""The display of a sweep: a live table on a terminal, one line per event elsewhere, and the final summary."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
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
WIDE = 120  # columns of a terminal from which the live table names the runs, too
GAP = 2  # between two columns
TITLES = {"certify/accuracy": "certified"}  # of metrics whose cells say at which radius


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
        """The live table: as many jobs as fit, first running, then failed, last ended and next ones.

        Numbers, names, states and times are whole; the words on what a job does have the rest of the line.
        """
        latest_first = {"failed": -1, "done": -1, "resumed": -1}
        chosen = sorted(self.jobs, key=lambda job: (URGENCY[job.state], job.number * latest_first.get(job.state, 1)))
        jobs = sorted(chosen[: max(1, most)], key=lambda job: job.number)
        columns = [
            Column("", [str(job.number) for job in jobs], right=True),
            Column("", [job.label or job.name for job in jobs]),
            *([Column("", [job.name for job in jobs])] if width >= WIDE else []),
            Column("", [job.state for job in jobs], styles=[COLOURS[job.state] for job in jobs]),
            Column("", [self.took(job) for job in jobs], right=True),
        ]
        room = width - sum(column.width + GAP for column in columns)
        if room > 0:
            columns.append(Column("", [words_of(job) for job in jobs], styles=["dim"] * len(jobs)))
        elif room < -GAP:  # only then is a name cut
            columns[1].most = max(1, columns[1].width + room + GAP)
        table = grid(columns, live=True)
        table.caption = f"{counts(self.jobs)}  {time.monotonic() - self.began:.0f} s"
        table.caption_justify = "left"
        return table

    def took(self, job: SweepJob) -> str:
        """How long a job has been running, over all tries."""
        now = time.monotonic()
        seconds = job.seconds + (now - self.started.get(job.number, now))
        return f"{seconds:.0f} s" if seconds else ""


@dataclass
class Column:
    """A column of a table of jobs; a line of a cell is cut only where it is longer than ``most``."""

    title: str
    cells: Sequence[str]
    right: bool = False
    wraps: bool = False  # at spaces, where it is longer than there is room
    styles: Sequence[str] = ()
    most: int | None = None

    @property
    def width(self) -> int:
        return self._longest(str.splitlines)

    @property
    def least(self) -> int:
        """The width that it needs without a cut within a word."""
        return self._longest(str.split) if self.wraps else self.width

    def _longest(self, split: Callable[[str], list[str]]) -> int:
        return max((cell_len(part) for text in (self.title, *self.cells) for part in split(text)), default=0)


def grid(columns: Sequence[Column], *, live: bool = False) -> Table:
    """The table of these columns; a live one is as wide as the terminal and has no titles."""
    table = Table(box=None, pad_edge=False, show_header=not live, expand=live)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
            max_width=column.most,
            ratio=1 if live and column is columns[-1] else None,
        )
    for place in range(len(columns[0].cells)):
        table.add_row(
            *(Text(column.cells[place], style=column.styles[place] if column.styles else "") for column in columns)
        )
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


def words_of(job: SweepJob) -> str:
    """What a job does or why it failed, else its numbers."""
    return job.last_words() if job.state == "running" else job.reason or headline(job.result())


def headline(result: Mapping[str, Any]) -> str:
    """The main number of each eval, on one line."""
    return "  ".join(f"{short(metric)} {value}" for metric, value in headlines(result).items())


def headlines(result: Mapping[str, Any]) -> dict[str, str]:
    """The main metric of each eval and its formatted value: the accuracy on the test set, else the first row.

    Of several that differ in what stands after an @, such as certified radii, it is the one at the radius of an attack,
    else the first; the value then says which.
    """
    by_suite: dict[str, list[Mapping[str, Any]]] = {}
    for row in result.get("rows", []):
        by_suite.setdefault(row["suite"], []).append(row)
    attacked = {f"{how['config']['epsilon']:.3g}" for how in result.get("evals", {}).values() if _has_radius(how)}
    found = {}
    for rows in by_suite.values():
        named = [(*_family(row["metric"]), row) for row in rows]
        family = next((name for name, _, _ in named if name.endswith("/accuracy")), named[0][0])
        own = [(where, row) for name, where, row in named if name == family]
        where, row = next((one for one in own if one[0] in attacked), own[0])
        found[family] = value_text(row["value"], row["unit"]) + (f" @{where}" if where else "")
    return found


def _has_radius(how: Mapping[str, Any]) -> bool:
    return isinstance(how.get("config", {}).get("epsilon"), int | float)


def _family(metric: str) -> tuple[str, str]:
    """A metric without what stands after the @ in its name, and that; the @ of an eval's own data is left."""
    suite, _, name = metric.partition("/")
    name, _, where = name.partition("@")
    return f"{suite}/{name}", where


def short(family: str) -> str:
    """The title of a metric where there is little room."""
    return TITLES.get(family, family.removesuffix("/accuracy"))


def print_summary(jobs: Sequence[SweepJob], seconds: float) -> None:
    """Print each job's final state and first metrics, and why jobs failed."""
    try:
        _print_summary(jobs, seconds)
    except (OSError, SystemExit):  # stdout is closed, and rich exits; flushing at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_summary(jobs: Sequence[SweepJob], seconds: float) -> None:
    out = console()
    columns, left_out = summary(jobs, out.width)
    print()
    out.print(grid(columns))
    if left_out:
        out.print(Text(f"\nno room here for {', '.join(left_out)}; a wider terminal shows them, and trust-exp report"))
    print(f"\n{plural(len(jobs), 'job')} in {seconds:.1f} s: {counts(jobs)}", flush=True)
    for job in jobs:
        if job.state == "failed":
            log = f"\n        log: {shown(job.log)}" if job.log.exists() else ""
            print(f"failed: {name_of(job)}: {job.reason}{log}", flush=True)


def summary(jobs: Sequence[SweepJob], width: int) -> tuple[list[Column], list[str]]:
    """The columns of the summary that fit, and the metrics that do not.

    The names of a job and of its run stand side by side, or one below the other where there is less room, and are
    whole. Where there is too little, metrics are left out, the last first; then the seconds.
    """
    numbers = [headlines(job.result()) if job.state != "failed" else {} for job in jobs]
    families = list(dict.fromkeys(family for found in numbers for family in found))
    values = {family: [found.get(family, "") for found in numbers] for family in families}
    full = [Column(TITLES.get(family, family), values[family], right=True) for family in families]
    brief = [Column(short(family), values[family], right=True) for family in families]
    number = Column("", [str(job.number) for job in jobs], right=True)
    label = Column("job", [job.label or job.name for job in jobs])
    both = Column("job", [f"{job.label}\n{job.name}" if job.label else job.name for job in jobs], wraps=True)
    run = Column("run", [job.name for job in jobs])
    ended = Column("ended", [job.state for job in jobs])
    took = Column("seconds", [f"{job.seconds:.1f}" if job.seconds else "" for job in jobs], right=True)

    def fits(*columns: Column) -> bool:
        return sum(column.width for column in columns) + GAP * (len(columns) - 1) <= width

    names = [label, run] if any(job.label for job in jobs) else [label]
    beside, below = [number, *names, ended, took], [number, both, ended, took]
    for columns in ([*beside, *full], [*beside, *brief], [*below, *brief]):
        if fits(*columns):
            return columns, []
    kept = [metric for place, metric in enumerate(brief) if fits(*below, *brief[: place + 1])]
    least = sum(column.least for column in below) + GAP * (len(below) - 1)
    return (below if least <= width else below[:-1]) + kept, families[len(kept) :]


def shown(path: Path) -> Path:
    """A path relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
