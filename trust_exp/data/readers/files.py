"""Whole files, and the lines of text files. No torch."""

from pathlib import Path

from trust_exp.errors import UserError


def content(path: Path) -> bytes:
    """All of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them.

    Raises:
        UserError: if it cannot be read, or is not text.
    """
    try:
        text = content(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
