"""Prepared data: ``<root>/prepared/<name>/`` with memory-mapped arrays and a manifest of what they must be. No torch.

A set is written into a folder of its own and renamed into place, so what is there is whole. Of several processes that
prepare the same set at once, the first to rename wins and the others take what it wrote.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trust_exp.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"


def prepared_folder(root: str | Path, name: str) -> Path:
    """Where the set lies once it is prepared."""
    return Path(root) / "prepared" / name


def is_prepared(root: str | Path, name: str) -> bool:
    """Whether the set was prepared; looks at no contents."""
    return (prepared_folder(root, name) / MANIFEST).is_file()


def write(
    root: str | Path, name: str, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], source: Mapping[str, Any]
) -> Path:
    """Prepare a set, replacing one that is there and differs.

    Args:
        root: folder of all data.
        name: of the set.
        splits: images uint8 [N, C, H, W] and labels [N] of each split.
        source: where the arrays come from, kept in the manifest; JSON types.

    Returns:
        The folder of the prepared set.

    Raises:
        UserError: if it cannot be written.
    """
    final = prepared_folder(root, name)
    # Not tempfile.mkdtemp, whose folder only its owner may read: data are often shared.
    temporary = final.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        files = {}
        for split, (images, labels) in splits.items():
            for kind, array in (("images", images), ("labels", labels)):
                path = temporary / f"{split}_{kind}.npy"
                np.save(path, array, allow_pickle=False)
                files[path.name] = _facts(path, array)
        manifest = {"format": FORMAT, "name": name, "files": files, "source": dict(source)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _publish(temporary, final)
    except OSError as error:
        raise UserError(f"{final} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _facts(path: Path, array: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
    }


def _publish(temporary: Path, final: Path) -> None:
    """Rename into place; a set that is there stays if it is whole and the same."""
    while True:
        try:
            os.rename(temporary, final)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        if _same_and_whole(final, temporary):
            return
        aside = temporary.with_name(temporary.name + ".replaced")
        # Another process may have moved it aside already; either way the place is free now.
        if _renamed(final, aside):
            shutil.rmtree(aside)


def _renamed(path: Path, to: Path) -> bool:
    try:
        os.rename(path, to)
    except FileNotFoundError:
        return False
    return True


def _same_and_whole(there: Path, here: Path) -> bool:
    try:
        manifest = read_manifest(there)
        _check_sizes(there, manifest)
    except UserError:
        return False
    return manifest == read_manifest(here)


def open_split(root: str | Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped images uint8 [N, C, H, W] and labels [N]; writing to them does not reach the files.

    Raises:
        UserError: if a file is missing or its size is not that of the manifest; contents are ``verify``'s affair.
    """
    folder = prepared_folder(root, name)
    _check_sizes(folder, read_manifest(folder))
    images, labels = (_mapped(folder / f"{split}_{kind}.npy", name) for kind in ("images", "labels"))
    return images, labels


def verify(root: str | Path, name: str) -> dict[str, Any]:
    """Read every byte of a prepared set against its checksums; returns the manifest.

    Raises:
        UserError: naming the first file that is missing, cut or changed.
    """
    folder = prepared_folder(root, name)
    manifest = read_manifest(folder)
    _check_sizes(folder, manifest)
    for file, facts in manifest["files"].items():
        if sha256(folder / file) != facts["sha256"]:
            raise UserError(f"{folder / file} has changed since it was prepared; {_rebuild(name)}")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared set.

    Raises:
        UserError: if there is none, or none that can be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] == FORMAT and isinstance(manifest["files"], dict):
            return manifest
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_rebuild(folder.name)}") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is not a manifest of format {FORMAT}; {_rebuild(folder.name)}")


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    for file, facts in manifest["files"].items():
        path = folder / file
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise UserError(f"{path} is missing; {_rebuild(folder.name)}")
        if size != facts["bytes"]:
            raise UserError(f"{path} has {size} bytes and should have {facts['bytes']}; {_rebuild(folder.name)}")


def _mapped(path: Path, name: str) -> np.ndarray:
    try:
        # Copy on write: pages are shared between processes, and torch wants an array it could write to.
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an array; {_rebuild(name)}") from error


def _rebuild(name: str) -> str:
    return f"prepare it again with: trust-exp data import {name} <folder>"


def sha256(path: Path) -> str:
    """Checksum of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
