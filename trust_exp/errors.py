"""Errors that are not bugs: what the user can mend, said in one sentence, and a run that was asked to stop."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
LONGEST = 2000  # characters of a message
QUOTED = 100  # those of a value in it


class UserError(ValueError):
    """A mistake in what the user gave: a value, a name, a file. The message is one sentence; the exit code is 2.

    It stays a sentence whatever names a file brings into it: ends of lines and control characters become spaces, and
    of a very long one the middle is left out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST * 3 // 4]} ... {message[-LONGEST // 5 :]}"
        super().__init__(CONTROLS.sub(" ", message))


class Interrupted(BaseException):
    """A run was asked to stop (Ctrl-C, SIGTERM). Not an Exception: nothing may take it for a failure."""


def unknown(what: str, given: str, allowed: Iterable[str]) -> UserError:
    """Error for a name that does not exist, with the nearest one that does and the list of all."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? There are" if near else "there are"
    return UserError(f"{what} {given!r} does not exist; {guess}: {', '.join(names) or 'none'}")


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UserError unless ``value`` is one of ``allowed``."""
    if value not in (names := tuple(allowed)):
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{key} must be one of {', '.join(names)}; got {value!r}{guess}")


def check_range(
    key: str,
    value: float | None,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Raise UserError unless ``value`` is None, or finite, > ``above``, at least ``least`` and at most ``most``."""
    if value is not None and not math.isfinite(value):
        raise UserError(f"{key} must be finite; got {value:g}")
    if value is not None and above is not None and not value > above:
        raise UserError(f"{key} must be greater than {exact(above)}; got {exact(value)}")
    if value is not None and least is not None and not value >= least:
        raise UserError(f"{key} must be at least {exact(least)}; got {exact(value)}")
    if value is not None and most is not None and not value <= most:
        raise UserError(f"{key} must be at most {exact(most)}; got {exact(value)}")


def listed(names: Iterable[str]) -> str:
    """``.md, .csv or .html``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def quoted(value: Any) -> str:
    """A value from a file as Python writes it, cut after some characters: a message is no place for all of a file."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."


def exact(value: float) -> str:
    """A number in as few digits as tell it from all others."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
