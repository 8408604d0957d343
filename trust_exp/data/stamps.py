"""Stamps of the files behind a prepared set, which tell later whether one of them has changed. No torch.

A file whose size and time are as before counts as the same. One with another time is the same if its content is, so a
copied or touched file changes nothing.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trust_exp.data.numpy_files import load_npz
from trust_exp.errors import UserError

FILE = "stamps.npz"
CHANGED, GONE = "has changed", "is gone"
MOST_FILES = 100_000  # a million, as of ImageNet, would take minutes to look at on a network disk


@dataclass(frozen=True)
class Stamps:
    """What files below ``folder`` were like.

    Args:
        folder: that the names are relative to.
        names: bytes [N], sorted.
        sizes: int64 [N], in bytes.
        times: int64 [N], of modification in nanoseconds.
        digests: uint8 [N, 32], SHA-256.
    """

    folder: Path
    names: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    digests: np.ndarray

    def content(self) -> str:
        """A checksum of all names and contents."""
        digest = hashlib.sha256()
        for name, one in zip(self.names.tolist(), self.digests, strict=True):
            digest.update(name + b"\\0" + one.tobytes())
        return digest.hexdigest()

    def write(self, prepared: Path) -> None:
        """Write them beside a manifest, as a whole."""
        part = prepared / f".{FILE}.{os.getpid()}"
        arrays = {key: getattr(self, key) for key in ("names", "sizes", "times", "digests")}
        with open(part, "wb") as file:
            np.savez(file, folder=np.array(os.fsencode(self.folder)), **arrays)
        os.replace(part, prepared / FILE)

    def look(self) -> tuple[list[tuple[str, str]], "Stamps"]:
        """The files that are not as they were, each with what happened to it; and the stamps with the times of now."""
        found, times = [], self.times.copy()
        for row, name in enumerate(self.names.tolist()):
            path = os.path.join(self.folder, os.fsdecode(name))
            try:
                now = os.stat(path)
                if now.st_size == self.sizes[row]:
                    times[row] = now.st_mtime_ns
                    if times[row] == self.times[row] or _digest(path) == self.digests[row].tobytes():
                        continue
                found.append((path, CHANGED))
            except FileNotFoundError:
                found.append((path, GONE))
            except OSError as error:
                found.append((path, f"cannot be read ({error.strerror})"))
        return found, replace(self, times=times)


def changes(prepared: Path) -> list[tuple[str, str]]:
    """The files behind a prepared set that are not as they were, each with what happened to it.

    Nothing is known, and so nothing found, of a set without stamps: an older version made it, or it has too many files.
    """
    stamps = read_stamps(prepared)
    if stamps is None:
        return []
    found, new = stamps.look()
    if not found and not np.array_equal(new.times, stamps.times):
        with contextlib.suppress(OSError):  # a folder that others may not write to
            new.write(prepared)  # so that the contents are compared once
    return found


def stamps_of(folder: Path, names: Collection[str]) -> Stamps | None:
    """Stamps of some files in ``folder``; None if there are too many. Those that are not there are left out."""
    if len(names) > MOST_FILES:
        return None
    there = sorted(os.fsencode(name) for name in names if os.path.isfile(os.path.join(folder, name)))
    paths = [os.path.join(os.fsencode(folder), name) for name in there]
    stats = [os.stat(path) for path in paths]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, paths))
    return Stamps(
        folder,
        np.array(there, np.bytes_),
        np.array([stat.st_size for stat in stats], np.int64),
        np.array([stat.st_mtime_ns for stat in stats], np.int64),
        np.array([list(digest) for digest in digests], np.uint8).reshape(-1, 32),
    )


def read_stamps(prepared: Path) -> Stamps | None:
    """The stamps that were written beside a manifest.

    Returns:
        None if there are none, as an older version wrote none, or none that can be read.
    """
    try:
        folder, *arrays = load_npz(prepared / FILE, "folder", "names", "sizes", "times", "digests").values()
    except UserError:
        return None
    kinds = [array.dtype.kind for array in (folder, *arrays)]
    n = arrays[0].size
    if kinds != ["S", "S", "i", "i", "u"] or [array.shape for array in arrays] != [(n,), (n,), (n,), (n, 32)]:
        return None
    return Stamps(Path(os.fsdecode(folder.item())), *arrays) if folder.ndim == 0 else None


def _digest(path: str | bytes) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
