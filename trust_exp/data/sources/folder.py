"""Images in a folder for each class: the user's own, and functions for other sets with that layout. No torch."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.readers.images import check_images
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import as_bytes, subfolders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
EVERY = 5  # every so many images one is for testing, if the folder has no parts


class Folder(Source):
    """``dataset=folder dataset.path=<folder>``: train, val and test with a folder for each class, or the classes alone.

    ``valid`` and ``validation`` are other names of ``val``; where there is no ``test``, ``val`` is the part called so.
    Of classes alone every fifth image of a class, by name, is for testing. Images may lie in folders below that of
    their class. Classes are sorted by name. Each folder is a set of its own, indexed again when its files change.
    """

    name = "folder"
    images: ClassVar[Mapping[str, int]] = {}
    megabytes = 0
    licence = "that of your images"
    homepage = "your disk"
    layout = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"
    streams = True

    def at(self, path: str | Path | None) -> Self:
        if path is None:
            raise UserError(f"dataset={self.name} needs dataset.path=<folder>: a folder with {self.layout}")
        self.check(Path(path))
        found = type(self)()
        found.name = f"{self.name}-{_fingerprint(Path(path))}"  # type: ignore[misc]  # of this one, not of the class
        return found

    def check(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        if not find_parts(folder) and not subfolders(folder):
            found = "images, but no folder of a class" if _loose_images(folder) else "no images"
            raise UserError(f"{folder} holds {found}; it must hold {self.layout}")

    def read(self, folder: Path, into: Writer) -> None:
        self.check(folder)
        listings = {part: list_classes(place) for part, place in find_parts(folder).items()}
        write_classes(Folder.name, folder, listings or _split(list_classes(folder)), into)


def _fingerprint(folder: Path) -> str:
    """10 hex digits of where the folder is and of the names, sizes and times of its images."""
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for path in sorted(filter(is_image, _files_below(folder))):
        stat = os.stat(path)
        digest.update(os.fsencode(f"\n{path} {stat.st_size} {stat.st_mtime_ns}"))
    return digest.hexdigest()[:10]


def _split(listing: "Listing") -> "dict[str, Listing]":
    """One listing as train and test."""
    parts = {"train": Listing({}, listing.others), "test": Listing({}, 0)}
    for name, files in listing.files.items():
        parts["train"].files[name] = [file for place, file in enumerate(files) if place % EVERY != EVERY - 1]
        parts["test"].files[name] = files[EVERY - 1 :: EVERY]
    return parts if any(parts["test"].files.values()) else {"train": parts["train"]}


class Listing(NamedTuple):
    """The images of each class, as paths, and how many other files lie among them."""

    files: dict[str, list[str]]
    others: int


def find_parts(folder: Path) -> dict[str, Path]:
    """The folders of train, val and test in ``folder`` by their part; none unless there is one to train on.

    Raises:
        UserError: if there is nothing to test on, or a part twice.
    """
    found: dict[str, Path] = {}
    for place in subfolders(folder):
        if (part := PARTS.get(place.name.lower())) and found.setdefault(part, place) != place:
            raise UserError(f"{folder} holds {found[part].name} and {place.name}, two names of one part; rename one")
    if "train" not in found:
        return {}
    if len(found) == 1:
        raise UserError(f"{folder} holds train but nothing to test on; it needs a folder test or val")
    if "test" not in found:
        found["test"] = found.pop("val")
    return found


def list_classes(folder: Path) -> Listing:
    """The images in the folders of ``folder``, each a class; paths are absolute, classes and images sorted by name.

    Raises:
        UserError: if there is no class, one without images, or images beside the classes.
    """
    if loose := _loose_images(folder):
        raise UserError(f"{folder} holds {loose[0]} beside the folders of its classes; move it into one of them")
    files: dict[str, list[str]] = {}
    others = 0
    for place in subfolders(folder):
        found = list(_files_below(place))
        files[place.name] = sorted(path for path in found if is_image(path))
        others += len(found) - len(files[place.name])
        if not files[place.name]:
            raise UserError(f"{place} holds no image ({', '.join(IMAGES)}); remove the folder, or add images to it")
    if not files:
        raise UserError(f"{folder} holds no folder of a class")
    return Listing(files, others)


def write_classes(name: str, folder: Path, parts: Mapping[str, Listing], into: Writer) -> None:
    """Index parts that have the same classes.

    Raises:
        UserError: if a class is missing in a part, or an image is not as it should be.
    """
    classes = sorted({label for listing in parts.values() for label in listing.files})
    for part, listing in parts.items():
        if missing := [label for label in classes if label not in listing.files]:
            raise UserError(f"{folder}: {part} lacks the class {missing[0]!r}; all parts must have the same classes")
    labels = {label: number for number, label in enumerate(classes)}
    write_index(
        folder,
        {
            part: [(path, labels[label]) for label, paths in listing.files.items() for path in paths]
            for part, listing in parts.items()
        },
        into,
    )
    into.converted["files that are not images, left out"] = sum(listing.others for listing in parts.values())
    into.info = stream_info(name, classes)


def stream_info(name: str, classes: list[str]) -> DatasetInfo:
    """Facts about images with a class, of any size; the configuration gives the shape of the served images."""
    return DatasetInfo(name, tuple(classes), (3, 224, 224), (0.0, 1.0))


def write_index(folder: Path, parts: Mapping[str, list[tuple[str, int]]], into: Writer) -> np.ndarray:
    """Check all images of the parts, pairs of a path and a class, and write ``paths``, ``labels`` and ``sizes``.

    Returns:
        The sizes, int32 [N, 2] (height, width), one part after the other.

    Raises:
        UserError: for the first image that is not as it should be.
    """
    sizes, converted = check_images([path for samples in parts.values() for path, _ in samples])
    into.count_images(converted)
    start = 0
    for part, samples in parts.items():
        labels = np.array([label for _, label in samples])
        into.put(
            part,
            paths=as_bytes(os.path.relpath(path, folder) for path, _ in samples),
            labels=labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int16),
            sizes=sizes[start : start + len(samples)],
        )
        start += len(samples)
    return sizes


def is_image(path: str) -> bool:
    """Whether a file's name is that of an image."""
    return path.lower().endswith(IMAGES)


def _loose_images(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if is_image(name) and not name.startswith(".")]


def _files_below(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in files if not name.startswith("."))
