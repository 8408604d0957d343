"""The console: lines for the user beside the results, and tables as wide as the terminal."""

import io
import sys
from contextlib import suppress

from rich.console import Console


def say(text: str) -> None:
    """A line for the user, beside the progress and not among the results."""
    with suppress(OSError):  # that nobody listens any more (a closed terminal, a pipe) ends no run
        print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """As wide as the terminal; wide enough for every line where there is none. Text in [brackets] is text."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def print_any_name() -> None:
    r"""From now on print what the console's encoding lacks, such as a file's name that is not UTF-8, as ``\xe9``.

    Python does so for messages already, but not for results.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
