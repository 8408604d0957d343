"""What lies in a folder, without what systems put there; the one place that looks into folders. No torch.

Links are followed, but each folder is visited once, and first where it lies: a link that leads back or to a folder that
is there anyway adds nothing, so that loops end and no image gets the class of another.
"""

import os
import stat
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from trust_exp.data.remarks import Remarks
from trust_exp.errors import UserError

# Of Synology's and QNAP's disks, Windows, macOS and Linux, in small letters. Their other names begin with a dot.
CLUTTER = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("__macosx", "icon\r", "lost+found"),
}


class Content(NamedTuple):
    """Paths of what lies directly in a folder, by name: folders, links to folders, files (also behind links)."""

    folders: list[str]
    linked: list[str]
    files: list[str]


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or put there by a system."""
    return name.startswith(".") or name.lower() in CLUTTER


def _above(folder: str) -> set[str]:
    """A folder, given by its real path, and those that it lies in."""
    return {folder, *map(str, Path(folder).parents)}


def content(folder: str | Path, remarks: Remarks) -> Content:
    """What lies in a folder; what is left out of it is counted in ``remarks``.

    Raises:
        UserError: if the folder cannot be read.
    """
    found = Content([], [], [])
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in ordered:
        if is_clutter(entry.name):
            remarks.add("clutter", entry.name)
        elif entry.is_dir(follow_symlinks=False):
            found.folders.append(entry.path)
        elif entry.is_file(follow_symlinks=False):
            found.files.append(entry.path)
        else:
            _follow(entry, found, remarks)
    return found


def _follow(entry: "os.DirEntry[str]", found: Content, remarks: Remarks) -> None:
    try:
        mode = os.stat(entry.path).st_mode
    except OSError:  # nothing there, or a loop of links
        remarks.add("nowhere", entry.name)
        return
    if stat.S_ISDIR(mode):
        if os.path.realpath(entry.path) in _above(os.path.realpath(os.path.dirname(entry.path))):
            remarks.add("again", entry.name)
        else:
            found.linked.append(entry.path)
    elif stat.S_ISREG(mode):
        found.files.append(entry.path)
    else:
        remarks.add("other", entry.name)


def subfolders(folder: str | Path) -> list[Path]:
    """The folders in a folder by name, also behind links; none of one that may not be read."""
    try:
        inside = content(folder, Remarks())
    except UserError:
        return []
    return sorted(map(Path, [*inside.folders, *inside.linked]))


def files_in(folder: str | Path, endings: Collection[str]) -> list[Path]:
    """The files in a folder with one of the ``endings`` (in small letters), by name; none if there is no folder."""
    if not os.path.isdir(folder):
        return []
    return [Path(path) for path in content(folder, Remarks()).files if path.lower().endswith(tuple(endings))]


def files_below(folder: str | Path) -> list[Path]:
    """All files in a folder and below, by path.

    Raises:
        UserError: if a folder cannot be read.
    """
    return sorted(map(Path, walk([folder], Remarks())[0]))


def walk(places: Sequence[str | Path], remarks: Remarks) -> list[list[str]]:
    """For each of some folders, the paths of all files in it and below, sorted.

    Raises:
        UserError: if a folder cannot be read.
    """
    real = [os.path.realpath(place) for place in places]
    seen, above = set(real), set().union(*map(_above, real))
    found: list[list[str]] = [[] for _ in places]
    waiting = deque((row, str(place), path) for row, (place, path) in enumerate(zip(places, real, strict=True)))
    linked: deque[tuple[int, str]] = deque()
    while waiting or linked:
        if waiting:
            row, folder, path = waiting.popleft()
        else:  # links come last: a folder is visited where it lies
            row, folder = linked.popleft()
            path = os.path.realpath(folder)
            if path in seen or path in above:
                remarks.add("again", os.path.basename(folder))
                continue
            seen.add(path)
        inside = content(folder, remarks)
        found[row] += inside.files
        linked += [(row, link) for link in inside.linked]
        for inner in inside.folders:
            within = os.path.join(path, os.path.basename(inner))
            if within in seen:
                remarks.add("again", os.path.basename(inner))
            else:
                seen.add(within)
                waiting.append((row, inner, within))
    return [sorted(files) for files in found]
