"""The console: lines for the user beside the results, and tables as wide as the terminal."""

import sys
from contextlib import suppress

from rich.console import Console


def say(text: str) -> None:
    """A line for the user, beside the progress and not among the results."""
    with suppress(OSError):  # that nobody listens any more (a closed terminal, a pipe) ends no run
        print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """As wide as the terminal; wide enough for every line where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)
