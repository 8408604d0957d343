"""What a person should know of how a folder was read: what is left out of it and why, counted by kind. No torch."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from trust_exp.data.names import shown

MOST_NAMES = 5  # that a sentence has
# The clause of one, and that of several.
CLAUSES = {
    "clutter": ("hidden or system file or folder is left out", "hidden or system files and folders are left out"),
    "other": ("file that is not an image is left out", "files that are not images are left out"),
    "unread": (
        "image is left out, as images of its kind are not read; convert it, e.g. to PNG",
        "images are left out, as images of their kinds are not read; convert them, e.g. to PNG",
    ),
    "nowhere": ("link is left out, as it leads nowhere", "links are left out, as they lead nowhere"),
    "again": (
        "folder is left out where a link leads to it again",
        "folders are left out where links lead to them again",
    ),
    "beside": (
        "image or folder is left out, as it lies beside the parts",
        "images and folders are left out, as they lie beside the parts",
    ),
    "arrays": ("array is left out, as its name means nothing", "arrays are left out, as their names mean nothing"),
    "untested": ("class has no image to test on", "classes have no image to test on"),
}


class Remarks:
    """Counts of what was met by its kind, a key of ``CLAUSES``, and its first few names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, dict[str, None]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one; ``name`` is that of a file or what else tells it, and stands in the sentence once."""
        self.counts[kind] += 1
        names = self.names.setdefault(kind, {})
        if len(names) <= MOST_NAMES:
            names[shown(name)] = None

    def facts(self) -> dict[str, dict[str, Any]]:
        """The same in JSON types, for a manifest."""
        return {kind: {"count": self.counts[kind], "names": list(self.names[kind])} for kind in sorted(self.counts)}


def sentences(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each kind in the ``facts`` of remarks: ``2 files that are not images are left out (a, b)``."""
    found = []
    for kind, (one, several) in CLAUSES.items():
        if kind in facts:
            count, names = facts[kind]["count"], facts[kind]["names"]
            listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
            clause, semicolon, advice = (one if count == 1 else several).partition("; ")
            found.append(f"{count:,} {clause} ({listed}){semicolon}{advice}")
    return found
