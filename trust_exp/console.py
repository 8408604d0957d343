"""The console: lines for the user beside the results, tables as wide as the terminal, and letters that it has."""

import codecs
import io
import sys
import unicodedata
from contextlib import suppress

from rich.console import Console

PLAIN = {
    "±": "+-",
    "×": "x",
    "∘": "o",
    "·": ".",
    "†": "+",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "∞": "inf",
    "‖": "|",
    "…": "~",
    "α": "alpha",
    "β": "beta",
    "δ": "delta",
    "ε": "eps",
    "λ": "lambda",
    "σ": "sigma",
}
HANDLER = "trust_exp.plain"


def say(text: str) -> None:
    """A line for the user, beside the progress and not among the results."""
    with suppress(OSError):  # that nobody listens any more (a closed terminal, a pipe) ends no run
        print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """As wide as the terminal; wide enough for every line where there is none. Text in [brackets] is text."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def print_anywhere() -> None:
    """Have letters that a terminal or a file does not have (``LC_ALL=C``) printed in plain ones, not raise an error."""
    codecs.register_error(HANDLER, in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    r"""Handler of letters that cannot be encoded: their like in ASCII, without accents; ? where there is none.

    Bytes of a file's name that are not UTF-8 are escaped: ``\xe9``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_plain, letters)), error.end


def _plain(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python keeps such a byte
        return f"\\x{ord(letter) - 0xDC00:02x}"
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode("ascii")
    return PLAIN.get(letter) or bare or "?"
