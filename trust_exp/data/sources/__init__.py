"""Which data are on disk, and how a folder of files becomes a prepared set. No torch: listing must be quick."""

import importlib
import pkgutil
import re
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trust_exp.data import store
from trust_exp.data.fetch import fetch, unpack
from trust_exp.data.sources.base import Source
from trust_exp.data.stamps import CHANGED, changes
from trust_exp.errors import UserError, unknown

__all__ = ["Source", "all_sources", "ensure", "find_source", "import_dataset", "is_present"]


@cache
def all_sources() -> dict[str, Source]:
    """Every source of this package by its name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {vars(source)["name"]: source() for source in _below(Source) if "name" in vars(source)}


def _below(base: Any) -> Iterator[Any]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from _below(subclass)


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in all_sources():
        raise unknown("the data set", name, all_sources())
    return all_sources()[name]


def is_present(name: str, root: str | Path) -> bool:
    """Whether a run with this data set would find its data without a download; looks at no contents.

    Sets without a source are generated or come with a library.
    """
    source = all_sources().get(name)
    return source is None or store.is_prepared(root, name) or _located(source, Path(root)) is not None


def _located(source: Source, root: Path) -> Path | None:
    """The folder under ``root`` that holds the set's files, named as the set or as others name it."""
    for folder in (root / name for name in (source.name, *source.folders) if (root / name).exists()):
        try:
            source.check(folder)
        except UserError:
            continue
        return folder
    return None


def import_dataset(name: str, folder: str | Path, root: str | Path) -> Path:
    """Check the files of a data set under ``folder`` and prepare them under ``root``; returns the prepared folder.

    Raises:
        UserError: if the set cannot be imported, or its files are missing or wrong.
    """
    source = find_source(name)
    with store.alone(root, name):
        _prepare(source, Path(folder), Path(root))
    return store.prepared_folder(root, name)


def ensure(source: Source, root: str | Path, path: str | Path | None = None) -> dict[str, Any]:
    """Prepare the set if that was not done: from ``path``, from its files under ``root``, or from a download.

    Returns:
        The manifest. The sizes of the files are checked, their contents are not; see ``store.verify``.

    Raises:
        UserError: if the data are missing and cannot be downloaded, or are damaged.
    """
    root, path = Path(root), Path(path) if path else None
    if not _is_done(source, root, path):
        with store.alone(root, source.name):
            if not _is_done(source, root, path):  # unless another process has done it meanwhile
                _obtain(source, root, path)
    return store.read_manifest(store.prepared_folder(root, source.name))


def _is_done(source: Source, root: Path, path: Path | None) -> bool:
    if not store.is_prepared(root, source.name):
        return False
    prepared = store.prepared_folder(root, source.name)
    manifest = store.read_manifest(prepared)
    if path is not None and manifest["folder"] != str(path.resolve()):
        return False
    if store.reading(manifest) != source.reading:
        return False
    return not any(what == CHANGED for _, what in changes(prepared))


def _obtain(source: Source, root: Path, path: Path | None) -> None:
    if folder := path or _located(source, root) or _read_before(source, root):
        _prepare(source, folder, root)
    elif source.remotes:
        _download(source, root)
    else:
        raise UserError(f"dataset={source.name} is not in {root} and has no download; {_way(source)}")


def _read_before(source: Source, root: Path) -> Path | None:
    """The folder that the set was prepared from, if it is still there."""
    if not store.is_prepared(root, source.name):
        return None
    folder = store.read_manifest(store.prepared_folder(root, source.name))["folder"]
    return Path(folder) if folder and Path(folder).exists() else None


def _download(source: Source, root: Path) -> None:
    """Download and prepare the set; keep the files only if it is served from them."""
    for left in root.glob(f".{source.name}.{'[0-9a-f]' * 32}"):  # left by a killed process; no other one is at work
        shutil.rmtree(left, ignore_errors=True)
    folder, kept = root / f".{source.name}.{uuid.uuid4().hex}", root / source.name
    try:
        folder.mkdir()
        files = [fetch(remote, root / "downloads") for remote in source.remotes]
        for file in files:
            _place(file, folder)
        if source.streams:
            folder = folder.rename(kept)
        _prepare(source, folder, root, verified=True)  # fetch has compared the checksums
        for file in files:
            file.unlink()
    except OSError as error:
        raise UserError(f"{root} cannot be written to: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"dataset={source.name} is not in {root}; {error}; {_way(source)}") from error
    finally:
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _place(file: Path, folder: Path) -> None:
    """Unpack an archive into a folder of its own; copy other files."""
    if archive := re.fullmatch(r"(.+)\.(zip|tar|tgz|tar\.gz)", file.name):
        unpack(file, folder / archive[1])
    else:
        shutil.copyfile(file, folder / file.name)


def _way(source: Source) -> str:
    return f"get {source.layout} from {source.homepage} and run: trust-exp data import {source.name} <folder>"


def _prepare(source: Source, folder: Path, root: Path, verified: bool = False) -> None:
    source.check(folder)
    with store.preparing(root, source.name) as writer:
        writer.reading = source.reading
        source.read(folder, writer)
        writer.source["verified"] = verified or writer.source.get("verified", False)
        writer.origin = folder.resolve()
