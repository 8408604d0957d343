"""One way to show progress: a bar on a terminal, a line now and then elsewhere, nothing on the other processes."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from trust_exp.console import say

T = TypeVar("T")
REDRAW_SECONDS = 0.1
LINE_SECONDS = 30.0
PHASE_SECONDS = 5.0


class Bar:
    """Progress of one thing that takes a while; ``update`` costs microseconds, drawing is throttled.

    Args:
        what: what is being done, e.g. "train".
        total: how many steps it has.
        visible: False on all processes but the first.
    """

    def __init__(self, what: str, total: int, *, visible: bool = True) -> None:
        self.what, self.total, self.visible = what, total, visible
        self.done, self.note = 0, ""
        self.begin = time.monotonic()
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.next_draw = self.begin + (REDRAW_SECONDS if self.terminal else LINE_SECONDS)
        self.live: Progress | None = None
        if self.terminal and visible:
            self._draw()  # at once: the clock then runs even before the first step is done

    def due(self) -> bool:
        """Whether the next update will be drawn."""
        return self.visible and time.monotonic() >= self.next_draw

    def update(self, done: int, note: str = "") -> None:
        """Say how many steps are done, and what to show behind the bar."""
        self.done, self.note = done, note or self.note
        if self.due():
            self._draw()

    def close(self) -> None:
        """Take the bar away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _draw(self) -> None:
        if not self.terminal:
            seconds = time.monotonic() - self.begin
            line = f"{self.what}: {self.done}/{self.total} after {seconds:.0f} s  {self.note}"
            say(line.rstrip())
            self.next_draw = time.monotonic() + LINE_SECONDS
            return
        if self.live is None:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self.live.add_task(self.what, total=self.total, note="")
            self.live.start()
        self.live.update(self.live.task_ids[0], completed=self.done, note=self.note)
        self.next_draw = time.monotonic() + REDRAW_SECONDS


def track(items: Iterable[T], what: str, *, visible: bool = True) -> Iterator[T]:
    """Iterate over ``items`` under a bar."""
    bar = Bar(what, len(items) if isinstance(items, Sized) else 0, visible=visible)
    try:
        for done, item in enumerate(items):
            yield item
            bar.update(done + 1)
    finally:
        bar.close()


@contextmanager
def announced(what: str, *, visible: bool = True) -> Iterator[None]:
    """Name what is being done once it has lasted for some seconds, even if none of its steps has ended by then."""
    timer = threading.Timer(PHASE_SECONDS, say, (f"{what} ...",))
    timer.daemon = True
    if visible:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
