"""How sources find a set in a folder: unpacked, in subfolders, or still in its archive. No torch."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trust_exp.data.fetch import unpack
from trust_exp.data.sources.listing import subfolders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

# Names that say which part they are, in small letters; dev, eval or holdout may be one or another.
PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
DEPTH = 2  # an archive's own folder lies in the one that it is unpacked to


def folders(folder: Path) -> Iterator[Path]:
    """``folder`` and the folders in it down to ``DEPTH``, the outer ones first, each once; no folders of a system.

    Raises:
        UserError: if it is not a folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    yield folder
    seen, level = {os.path.realpath(folder)}, [folder]
    for _ in range(DEPTH):
        inner = {os.path.realpath(child): child for parent in level for child in subfolders(parent)}
        level = [child for path, child in inner.items() if path not in seen]
        seen |= inner.keys()
        yield from level


def holding(folder: Path, *names: str) -> Path | None:
    """The outermost folder in ``folder`` with a file of one of the names; None if there is none.

    Raises:
        UserError: if it lacks another one of them.
    """
    for place in folders(folder):
        missing = [name for name in names if not (place / name).is_file()]
        if len(missing) < len(names):
            if missing:
                raise UserError(f"{place} lacks {', '.join(missing)}")
            return place
    return None


def number(path: Path) -> int:
    """The last number in a file's name: that of the image in its set.

    Raises:
        UserError: if there is none.
    """
    if found := re.findall(r"\d+", path.stem):
        return int(found[-1])
    raise UserError(f"{path} has no number in its name; the numbers give the images their order")


def as_bytes(names: Iterable[str | Path]) -> np.ndarray:
    """File names as an array, bytes [N]."""
    return np.array([os.fsencode(name) for name in names], np.bytes_)


@contextlib.contextmanager
def unpacked(archive: Path, into: Writer) -> Iterator[Path]:
    """The content of an archive while ``into`` is written.

    Beside the data that are being prepared, as the disk of temporary files may be a small one.
    """
    with tempfile.TemporaryDirectory(prefix="unpacked.", dir=into.folder) as folder:
        yield unpack(archive, Path(folder) / "content")
