"""Images in a folder for each class: the user's own, and functions for other sets with that layout. No torch."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.names import class_name
from trust_exp.data.readers.images import ENDINGS, UNREAD, check_images, upright_sizes
from trust_exp.data.remarks import Remarks
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import PARTS, as_bytes
from trust_exp.data.sources.listing import content, subfolders, walk
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

EVERY = 5  # every so many images one is for testing, if the folder has no parts
Classes = dict[str, list[str]]  # the images of each class, as paths


class Folder(Source):
    """``dataset=folder dataset.path=<folder>``: train, val and test with a folder for each class, or the classes alone.

    ``training``, ``validation``, ``testing`` and the like are other names of the parts (``PARTS``); where there is no
    ``test``, ``val`` is the part called so. Of classes alone every fifth image of a class, by name, is for testing.
    Images may lie in folders below that of their class, and stand upright as EXIF has it. Classes are sorted by name.
    Each folder is a set of its own, indexed again when its files change.
    """

    name = "folder"
    images: ClassVar[Mapping[str, int]] = {}
    megabytes = 0
    licence = "that of your images"
    homepage = "your disk"
    layout = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"
    streams = True
    reading = 2  # EXIF's orientation, loops of links, what systems put into folders

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
        if not find_parts(folder, Remarks()) and not subfolders(folder):
            loose = any(is_image(path) for path in content(folder, Remarks()).files)
            found = "images, but no folder of a class" if loose else "no images"
            raise UserError(f"{folder} holds {found}; it must hold {self.layout}")

    def read(self, folder: Path, into: Writer) -> None:
        self.check(folder)
        if places := find_parts(folder, into.remarks):
            parts = {part: list_classes(place, into.remarks) for part, place in places.items()}
        else:
            parts = _split(list_classes(folder, into.remarks))
            if "test" not in parts:
                into.lacking["test"] = (
                    f"{folder} has no image to test on: it would be every fifth of a class, and no class has "
                    f"{EVERY} images; add images, or make two folders train and test of them"
                )
        write_classes(Folder.name, folder, parts, into)


def _fingerprint(folder: Path) -> str:
    """10 hex digits of where the folder is, of the names, sizes and times of its images, and of how they are read."""
    digest = hashlib.sha256(os.fsencode(folder.resolve()) + f"\n{Folder.reading}".encode())
    for path in filter(is_image, walk([folder], Remarks())[0]):
        with contextlib.suppress(FileNotFoundError):  # it has gone this moment
            stat = os.stat(path)
            name = os.path.relpath(path, folder)
            digest.update(os.fsencode(f"\n{name} {stat.st_size} {stat.st_mtime_ns}"))
    return digest.hexdigest()[:10]


def _split(classes: Classes) -> dict[str, Classes]:
    """Classes as train and test; train alone if no class has enough images."""
    train = {
        name: [file for place, file in enumerate(files) if place % EVERY != EVERY - 1]
        for name, files in classes.items()
    }
    test = {name: files[EVERY - 1 :: EVERY] for name, files in classes.items()}
    return {"train": train, "test": test} if any(test.values()) else {"train": train}


def find_parts(folder: Path, remarks: Remarks) -> dict[str, Path]:
    """The folders of train, val and test in ``folder`` by their part; none if no folder is called like a part.

    Raises:
        UserError: if there is nothing to train or to test on, or a part twice.
    """
    found: dict[str, Path] = {}
    others = []
    for place in subfolders(folder):
        part = PARTS.get(place.name.lower())
        if part is None:
            others.append(place.name)
        elif found.setdefault(part, place) != place:
            raise UserError(f"{folder} holds {found[part].name} and {place.name}, two names of one part; rename one")
    if not found:
        return {}
    if "train" not in found or len(found) == 1:
        name, lacking = next(iter(found.values())).name, "train" if "train" not in found else "test"
        needed = "train" if lacking == "train" else "test or val"
        beside = f"; beside it is {others[0]}: if both are classes, give {name} another name" if others else ""
        raise UserError(f"{folder} holds {name} but nothing to {lacking} on; it needs a folder {needed}{beside}")
    if "test" not in found:
        found["test"] = found.pop("val")
    loose = [os.path.basename(path) for path in content(folder, Remarks()).files if is_image(path)]
    for name in [*others, *loose]:
        remarks.add("beside", name)
    return found


def list_classes(folder: Path, remarks: Remarks) -> Classes:
    """The images in the folders of ``folder``, each a class; paths, classes and images sorted by name.

    Raises:
        UserError: if there is no class, one without images or twice, or images beside the classes.
    """
    inside = content(folder, remarks)
    if loose := _images(inside.files, remarks):
        name = os.path.basename(loose[0])
        raise UserError(f"{folder} holds {name} beside the folders of its classes; move it into one of them")
    places = sorted([*inside.folders, *inside.linked])
    if not places:
        raise UserError(f"{folder} holds no folder of a class")
    _check_distinct(places)
    classes: Classes = {}
    for place, files in zip(places, walk(places, remarks), strict=True):
        images = _images(files, remarks)
        if not images:
            unread = sorted({ending for path in files if (ending := _unread(path))})
            what = f"no image that can be read, but {', '.join(unread)}" if unread else "no image"
            fix = "convert them, e.g. to PNG" if unread else "remove the folder, or add images to it"
            raise UserError(f"{place} holds {what} ({', '.join(ENDINGS)}); {fix}")
        classes.setdefault(class_name(os.path.basename(place)), []).extend(images)
    return dict(sorted(classes.items()))


def _check_distinct(places: list[str]) -> None:
    first: dict[str, str] = {}
    for place in places:
        other = first.setdefault(os.path.realpath(place), place)
        if other != place:
            raise UserError(f"{other} and {place} are one folder; a class needs a folder of its own")


def _images(files: Iterable[str], remarks: Remarks) -> list[str]:
    """Those of some files that are images; the others are counted."""
    images = []
    for path in files:
        if is_image(path):
            images.append(path)
        elif ending := _unread(path):
            remarks.add("unread", ending)
        else:
            remarks.add("other", os.path.basename(path))
    return images


def _unread(path: str) -> str:
    """The ending of an image that is not read; empty if the file is none."""
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in UNREAD else ""


def write_classes(name: str, folder: Path, parts: Mapping[str, Classes], into: Writer) -> None:
    """Index parts that have the same classes.

    Raises:
        UserError: if a class is missing in a part, or an image is not as it should be.
    """
    classes = sorted({label for own in parts.values() for label in own})
    for part, own in parts.items():
        if missing := [label for label in classes if label not in own]:
            raise UserError(f"{folder}: {part} lacks the class {missing[0]!r}; all parts must have the same classes")
    for label, images in parts.get("test", {}).items():
        if not images:
            into.remarks.add("untested", label)
    labels = {label: number for number, label in enumerate(classes)}
    write_index(
        folder,
        {
            part: [(path, labels[label]) for label, paths in own.items() for path in paths]
            for part, own in parts.items()
        },
        into,
    )
    into.info = stream_info(name, classes)


def stream_info(name: str, classes: list[str]) -> DatasetInfo:
    """Facts about images with a class, of any size; the configuration gives the shape of the served images."""
    return DatasetInfo(name, tuple(classes), (3, 224, 224), (0.0, 1.0))


def write_index(
    folder: Path, parts: Mapping[str, list[tuple[str, int]]], into: Writer, *, upright: bool = True
) -> np.ndarray:
    """Check all images of the parts, pairs of a path and a class, and write ``paths``, ``labels`` and ``sizes``.

    Where EXIF turns an image, all parts have ``orientation`` too (uint8 [N], 1 to 8), and ``sizes`` are as it stands.

    Args:
        upright: serve images as EXIF turns them; False: as they are stored, where boxes are drawn on stored pixels.

    Returns:
        The sizes, int32 [N, 2] (height, width), one part after the other.

    Raises:
        UserError: if a part has no image; for the first image that is not as it should be.
    """
    if empty := [part for part, samples in parts.items() if not samples]:
        raise UserError(f"{folder} has no image for {empty[0]}")
    facts = check_images([path for samples in parts.values() for path, _ in samples])
    into.count_images(facts.converted)
    turned = facts.orientations if upright else np.ones_like(facts.orientations)
    sizes = upright_sizes(facts.sizes, turned)
    into.converted += Counter({"images that EXIF turns": int((turned > 1).sum())})
    start = 0
    for part, samples in parts.items():
        labels, own = np.array([label for _, label in samples]), slice(start, start + len(samples))
        into.put(
            part,
            paths=as_bytes(os.path.relpath(path, folder) for path, _ in samples),
            labels=labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int16),
            sizes=sizes[own],
        )
        if (turned > 1).any():  # where no image is turned, the index is that of images without EXIF
            into.put(part, orientation=turned[own])
        start = own.stop
    return sizes


def is_image(path: str) -> bool:
    """Whether a file's name is that of an image that can be read."""
    return path.lower().endswith(ENDINGS)
