"""Figures that are embedded in the page: each picture once, within a budget of bytes."""

import base64
import hashlib
from collections.abc import Sequence
from itertools import zip_longest
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

    def add_all(self, runs: Sequence[tuple[Path, Sequence[str]]]) -> list[list[dict[str, str | int]]]:
        """Add the figures of runs in turns, so that a run with many leaves room for those of others.

        Args:
            runs: folder and names of figures of each run. The first turn adds the first figure of each, and so on.

        Returns:
            For each run what ``add`` returns for its figures, in their order.
        """
        added: list[list[dict[str, str | int]]] = [[] for _ in runs]
        for turn in zip_longest(*(names for _, names in runs)):
            for (folder, _), name, figures in zip(runs, turn, added, strict=True):
                if name is not None:
                    figures.append(self.add(folder, name))
        return added

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
                raise ValueError("is left out: --figures-mb has no room for it")
            self._room -= len(picture)
            self._numbers[key] = len(self.pictures)
            self.pictures.append(picture)
        return self._numbers[key]
