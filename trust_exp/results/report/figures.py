"""Figures that are embedded in the page: each picture once, within a budget of bytes."""

import base64
import hashlib
from pathlib import Path

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}


class Album:
    """Pictures as data URIs, numbered in the order in which they were added.

    Args:
        budget: most characters that all of them may take in the page.
    """

    def __init__(self, budget: float) -> None:
        self.pictures: list[str] = []
        self._room = budget
        self._numbers: dict[bytes, int] = {}

    def add(self, folder: Path, name: str) -> dict[str, str | int]:
        """Add the figure ``folder/name``; returns its path, and the number of its picture or why it is missing."""
        path = folder / name
        try:
            return {"path": name, "picture": self._number(folder, path)}
        except (OSError, ValueError) as error:
            why = "cannot be read" if isinstance(error, OSError) else str(error)
            return {"path": name, "where": str(path), "why": why}

    def _number(self, folder: Path, path: Path) -> int:
        if path.suffix.lower() not in TYPES:
            raise ValueError("is no picture that a page can show")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError("lies outside the run's folder")
        content = path.read_bytes()
        key = hashlib.sha256(content).digest()
        if key not in self._numbers:
            picture = f"data:{TYPES[path.suffix.lower()]};base64,{base64.b64encode(content).decode()}"
            if len(picture) > self._room:
                raise ValueError("is left out: the figures of newer runs fill --figures-mb")
            self._room -= len(picture)
            self._numbers[key] = len(self.pictures)
            self.pictures.append(picture)
        return self._numbers[key]
