"""Prepared data: ``<root>/prepared/<name>/`` with memory-mapped arrays and a manifest of their checksums. No torch.

A set is written into a temporary folder and renamed into place, so it is always complete. One process prepares a set at
a time; on a file system without locks the first to rename wins, and the others use its files.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trust_exp.data.config import DatasetInfo, Layer
from trust_exp.data.lock import locked
from trust_exp.data.remarks import Remarks
from trust_exp.data.stamps import Stamps, stamps_of
from trust_exp.errors import UserError, unknown
from trust_exp.parsing import parse_json
from trust_exp.stored import count, dict_of, group, list_of, maybe, number, record, text, whole
from trust_exp.tasks import TASKS

FORMAT = 2
MANIFEST = "manifest.json"
INFO = whole(
    name=text,
    classes=list_of(text),
    shape=list_of(count),
    domain=maybe(list_of(number)),
    task=lambda value: text(value) and value in TASKS,
    layers=list_of(whole(kind=text, concepts=list_of(text))),
)
AS_WRITTEN = record(
    name=text,
    folder=maybe(text),
    content=maybe(text),
    reading=maybe(count),
    lacking=maybe(dict_of(text)),
    remarks=maybe(dict_of(whole(count=count, names=list_of(text)))),
    source=group,
    converted=maybe(dict_of(count)),
    files=dict_of(
        whole(shape=lambda value: value != [] and list_of(count)(value), dtype=text, bytes=count, sha256=text)
    ),
    info=lambda value: INFO(value) and record(normal=maybe(list_of(list_of(count))))(value),
)


def prepared_folder(root: str | Path, name: str) -> Path:
    """Where the set lies once it is prepared."""
    return Path(root) / "prepared" / name


def is_prepared(root: str | Path, name: str) -> bool:
    """Whether the set was prepared; looks at no contents."""
    return (prepared_folder(root, name) / MANIFEST).is_file()


class Writer:
    """The arrays and facts of a set that is being prepared.

    ``info`` and ``source`` (where the data come from, JSON types) must be set; ``converted`` counts images
    that were converted, e.g. grey ones; ``remarks`` what was left out; ``lacking`` says of a part that one might expect
    why it is not there; ``reading`` is that of the source; ``origin`` is the folder that was read, and ``files`` are
    those that were read in it, without the images and maps that the index names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: DatasetInfo | None = None
        self.source: dict[str, Any] = {}
        self.converted: Counter[str] = Counter()
        self.remarks = Remarks()
        self.lacking: dict[str, str] = {}
        self.reading = 1
        self.origin: Path | None = None
        self.files: list[Path] = []
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, part: str, kind: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array on disk to be filled: of a part such as train, of a kind such as images or labels."""
        name = f"{part}_{kind}.npy"
        if 0 in shape:  # empty files cannot be mapped
            np.save(self.folder / name, np.empty(shape, dtype))
            self._arrays[name] = np.empty(shape, dtype)
        else:
            self._arrays[name] = np.lib.format.open_memmap(self.folder / name, "w+", dtype, shape)
        return self._arrays[name]

    def count_images(self, kinds: Mapping[str, int]) -> None:
        """Count images that were converted, by how they are stored: grey, palette, ..."""
        self.converted.update({f"{kind} images": count for kind, count in kinds.items() if count})

    def put(self, part: str, **arrays: np.ndarray) -> None:
        """Write whole arrays of a part, each under its kind."""
        for kind, array in arrays.items():
            self.array(part, kind, array.shape, array.dtype)[...] = array

    def finish(self, name: str) -> None:
        """Write the manifest, and the stamps of the files that were read."""
        if self.info is None:
            raise ValueError(f"the info of {name} was not set")
        stamps = None if self.origin is None else self._stamps(self.origin)
        if stamps is not None:
            stamps.write(self.folder)
        files = {}
        for file, array in self._arrays.items():
            if isinstance(array, np.memmap):
                array.flush()
            files[file] = _facts(self.folder / file, array)
        manifest = {
            "format": FORMAT,
            "name": name,
            "info": asdict(self.info),
            "files": files,
            "source": self.source,
            "converted": dict(self.converted),
            "remarks": self.remarks.facts(),
            "lacking": self.lacking,
            "reading": self.reading,
            "folder": str(self.origin) if self.origin else None,
            "content": None if stamps is None else stamps.content(),
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def _stamps(self, origin: Path) -> Stamps | None:
        """Of the files that were read, and of those that the index names."""
        folder = origin if origin.is_dir() else origin.parent
        named = (
            array for file, array in self._arrays.items() if file.endswith(("_paths.npy", "_maps.npy", "_masks.npy"))
        )
        served = {os.fsdecode(name) for array in named for name in np.unique(array) if name}
        return stamps_of(folder, served | {os.path.relpath(path.resolve(), folder) for path in self.files})


@contextlib.contextmanager
def preparing(root: str | Path, name: str) -> Iterator[Writer]:
    """Prepare a set; it replaces an existing one that differs, and leaves nothing behind if it fails.

    Raises:
        UserError: if it cannot be written.
    """
    final = prepared_folder(root, name)
    # Not tempfile.mkdtemp, whose folder only its owner may read: data are often shared.
    temporary = final.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        writer = Writer(temporary)
        yield writer
        writer.finish(name)
        _publish(temporary, final)
    except OSError as error:
        raise UserError(f"{final} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def alone(root: str | Path, name: str) -> Iterator[None]:
    """Keep other processes from preparing the set; removes the leftovers of killed ones.

    Raises:
        UserError: if the folder of the data cannot be written to.
    """
    final = prepared_folder(root, name)
    with contextlib.ExitStack() as stack:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            is_alone = stack.enter_context(locked(final.with_name(f".{name}.lock")))
        except OSError as error:
            raise UserError(f"{final.parent} cannot be written to: {error.strerror}") from error
        if is_alone:
            for left in final.parent.glob(f".{name}.{'[0-9a-f]' * 32}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def _facts(path: Path, array: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
    }


def _publish(temporary: Path, final: Path) -> None:
    """Rename into place; an existing set stays if it is complete and the same."""
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


def open_part(root: str | Path, name: str, part: str) -> dict[str, np.ndarray]:
    """Memory-mapped arrays of a part by their kind; writing to them does not reach the files.

    Raises:
        UserError: if there is no such part, or a file is missing or of another size than in the manifest; contents are
            not checked, see ``verify``.
    """
    folder = prepared_folder(root, name)
    manifest = read_manifest(folder)
    _check_sizes(folder, manifest)
    files = [file for file in manifest["files"] if file.rpartition("_")[0] == part]
    if not files:
        if part in manifest.get("lacking", {}):
            raise UserError(manifest["lacking"][part])
        raise unknown(f"the part of {manifest['info']['name']} for dataset.train, .val or .test", part, parts(manifest))
    return {file.rpartition("_")[2].removesuffix(".npy"): _mapped(folder / file) for file in files}


def open_parts(root: str | Path, name: str, chosen: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of some parts one after the other; those of one part are memory-mapped, of several in memory.

    Raises:
        UserError: as ``open_part``.
    """
    found = [open_part(root, name, part) for part in chosen]
    if len(found) == 1:
        return found[0]
    return {kind: np.concatenate([arrays[kind] for arrays in found]) for kind in found[0]}


def parts(manifest: dict[str, Any]) -> list[str]:
    """The parts of a prepared set, such as train and test."""
    return sorted({file.rpartition("_")[0] for file in manifest["files"]})


def counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many images each part of a prepared set has."""
    named = {file.removesuffix(".npy").rpartition("_"): facts for file, facts in manifest["files"].items()}
    return {part: facts["shape"][0] for (part, _, kind), facts in named.items() if kind in ("images", "paths")}


def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for a run's record: two runs with equal facts have seen equal data, see ``differ``."""
    known = {"prepared": manifest["name"], "content": manifest.get("content"), "reading": reading(manifest)}
    return {"verified": manifest["source"].get("verified"), "files": manifest["files"], **known}


def reading(manifest: Mapping[str, Any]) -> int:
    """Which reading of its files made a prepared set, see ``Source.reading``; or a set that a run has seen."""
    return int(manifest.get("reading", 1))  # older versions kept none


def differ(seen: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether two records of ``facts`` (or mappings of such) are of different data.

    A fact that only one of them has is passed over, as older versions recorded fewer.
    """
    for key in (seen.keys() & found.keys()) - {"prepared", "verified", "reading"}:
        one, other = seen[key], found[key]
        if key != "files" and isinstance(one, Mapping) and isinstance(other, Mapping):
            if differ(one, other):
                return True
        elif None not in (one, other) and one != other:
            return True
    return False


def read_info(manifest: dict[str, Any]) -> DatasetInfo:
    """The facts about the set in its manifest."""
    info = manifest["info"]
    return DatasetInfo(
        name=info["name"],
        classes=tuple(info["classes"]),
        shape=tuple(info["shape"]),
        domain=tuple(info["domain"]) if info["domain"] else None,
        task=info["task"],
        layers=tuple(Layer(layer["kind"], tuple(layer["concepts"])) for layer in info["layers"]),
        normal=tuple(map(tuple, info.get("normal", ()))),  # older versions kept none
    )


def verify(root: str | Path, name: str) -> dict[str, Any]:
    """Compare every file of a prepared set with its checksum; returns the manifest.

    Raises:
        UserError: naming the first file that is missing, cut or changed.
    """
    folder = prepared_folder(root, name)
    manifest = read_manifest(folder)
    _check_sizes(folder, manifest)
    for file, facts in manifest["files"].items():
        if sha256(folder / file) != facts["sha256"]:
            raise UserError(f"{folder / file} has changed since it was prepared; {_rebuild(folder)}")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared set.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = parse_json(path.read_bytes())
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT and AS_WRITTEN(manifest):
            return manifest
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_rebuild(folder)}") from error
    except ValueError:
        pass
    raise UserError(f"{path} is not a manifest of format {FORMAT}; {_rebuild(folder)}")


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    for file, facts in manifest["files"].items():
        path = folder / file
        size = path.stat().st_size if os.path.isfile(path) else None  # False also for a name that no file can have
        if size is None:
            raise UserError(f"{path} is missing; {_rebuild(folder)}")
        if size != facts["bytes"]:
            raise UserError(f"{path} has {size} bytes and should have {facts['bytes']}; {_rebuild(folder)}")


def _mapped(path: Path) -> np.ndarray:
    try:
        # Copy on write: pages are shared between processes, and torch wants an array it could write to.
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # a header is Python code to numpy: SyntaxError, TokenError, RecursionError, ...
        raise UserError(f"{path} cannot be read as an array; {_rebuild(path.parent)}") from error


def _rebuild(folder: Path) -> str:
    # Not every set can be imported again: one may be drawn, downloaded, or the user's own under a name of its files.
    return f"delete {folder}, and the next run prepares it again or says how to get the data"


def sha256(path: Path) -> str:
    """Checksum of a file's contents, in hex."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: str) -> str:
    """The same by another algorithm; older sets publish md5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
