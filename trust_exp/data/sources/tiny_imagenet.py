"""Tiny-ImageNet: 200 classes of ImageNet at 64x64 pixels. No torch."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.fetch import Remote
from trust_exp.data.readers.files import lines
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import folders, holding, number, unpacked
from trust_exp.data.sources.listing import files_in
from trust_exp.data.sources.pixels import decode, distinct
from trust_exp.data.store import Writer, file_digest
from trust_exp.errors import UserError

SIDE = 64
ARCHIVE = "tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # as avalanche, pytorch-fgvc-dataset and others list it
SUFFIXES = (".jpeg", ".jpg", ".png")


class TinyImageNet(Source):
    """Tiny-ImageNet-200 (Stanford CS231n); of its three parts test has no labels and is left out.

    A label is the place of its class among the sorted wnids, not its line in wnids.txt. Train is in the order of
    classes, val in that of the files' numbers. A class is called by the first of its names in words.txt.
    """

    name = "tiny_imagenet"
    images: ClassVar = {"train": 100_000, "val": 10_000}
    megabytes = 1352
    licence = "terms of ImageNet: research that is not commercial"
    homepage = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    layout = "tiny-imagenet-200 with wnids.txt, train/<wnid>/images and val, or its zip file"
    folders = ("tiny-imagenet-200", "TinyImageNet")
    remotes = (Remote(homepage, f"md5:{MD5}", 248_100_043),)

    def check(self, folder: Path) -> None:
        place = find_images(folder)
        if place.is_dir():
            check_parts(place)

    def read(self, folder: Path, into: Writer) -> None:
        place = find_images(folder)
        if place.is_file():
            with unpacked(place, into) as content:
                self.read(content, into)
            into.files = [place]
            found = file_digest(place, "md5")
            into.source = {"md5": {place.name: found}, "verified": found == MD5}
            return
        check_parts(place)
        wnids = read_wnids(place)
        into.info = DatasetInfo(self.name, class_names(place, wnids), (3, SIDE, SIDE), (0.0, 1.0))
        for part, samples in (("train", train_samples(place, wnids)), ("val", val_samples(place, wnids))):
            into.files += [path for path, _ in samples]
            images = into.array(part, "images", (len(samples), 3, SIDE, SIDE), np.uint8)
            into.count_images(decode([path for path, _ in samples], images))
            into.put(part, labels=np.array([label for _, label in samples], np.uint8))


def find_images(folder: Path) -> Path:
    """The folder of the set in ``folder``, or its archive.

    Raises:
        UserError: if there is neither.
    """
    if place := holding(folder, "wnids.txt"):
        return place
    for place in folders(folder):
        if (place / ARCHIVE).is_file():
            return place / ARCHIVE
    raise UserError(f"{folder} holds no tiny_imagenet: there must be {TinyImageNet.layout}")


def check_parts(place: Path) -> None:
    """Raise UserError unless there are the folders of both parts, and of each class."""
    for part in ("train", "val"):
        if not (place / part).is_dir():
            raise UserError(f"{place} lacks the folder {part}")
    in_classes = not _is_listed(place)
    if not in_classes and not (place / "val" / "val_annotations.txt").is_file():
        raise UserError(f"{place / 'val'} lacks val_annotations.txt, which has the classes of val/images")
    for part in ("train", "val") if in_classes else ("train",):
        if missing := [wnid for wnid in read_wnids(place) if not (place / part / wnid).is_dir()]:
            raise UserError(f"{place / part} lacks the folder {missing[0]} of a class in wnids.txt")


def _is_listed(place: Path) -> bool:
    """Whether the images of val lie together, their classes in a list, and not in a folder for each class."""
    return bool(files_in(place / "val" / "images", SUFFIXES))


def read_wnids(place: Path) -> list[str]:
    """The classes, sorted.

    Raises:
        UserError: if wnids.txt is not a list of wnids.
    """
    path = place / "wnids.txt"
    wnids = sorted(lines(path))
    malformed = [wnid for wnid in wnids if not re.fullmatch(r"n\d{8}", wnid)]
    if malformed or not 0 < len(set(wnids)) == len(wnids) <= 256:
        what = (
            f"holds {malformed[0][:40]!r}"
            if malformed
            else f"has {len(wnids)} lines, {len(set(wnids))} of them different"
        )
        raise UserError(f"{path} {what}; it should have one wnid a line, such as n01443537, and 200 of them")
    return wnids


def class_names(place: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first name of each class in words.txt, or its wnid if it has none there."""
    path = place / "words.txt"
    words = dict(line.split("\t", 1) for line in lines(path) if "\t" in line) if path.is_file() else {}
    return distinct([words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids], wnids)


def train_samples(place: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """Images and labels in the order of classes and numbers."""
    return [
        (path, label)
        for label, wnid in enumerate(wnids)
        for path in sorted(_of_class(place / "train" / wnid), key=number)
    ]


def val_samples(place: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """Images and labels in the order of numbers, which is that of val_annotations.txt.

    Raises:
        UserError: if the list and the images do not fit together.
    """
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    if not _is_listed(place):
        samples = [(path, label) for wnid, label in label_of.items() for path in _of_class(place / "val" / wnid)]
        return sorted(samples, key=_by_number)
    listed = _annotations(place / "val" / "val_annotations.txt", label_of)
    images = {path.name: path for path in files_in(place / "val" / "images", SUFFIXES)}
    for name in sorted(listed.keys() ^ images.keys()):
        what = "has no class for" if name in images else "names"
        end = f"{place / 'val' / 'images' / name}" + ("" if name in images else ", which is not there")
        raise UserError(f"{place / 'val' / 'val_annotations.txt'} {what} {end}")
    return sorted(((images[name], label) for name, label in listed.items()), key=_by_number)


def _by_number(sample: tuple[Path, int]) -> tuple[int, Path]:
    return number(sample[0]), sample[0]


def _annotations(path: Path, label_of: dict[str, int]) -> dict[str, int]:
    """Labels by the files' names."""
    labels = {}
    for line in lines(path):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in label_of:
            raise UserError(f"{path} has the line {line[:80]!r}; it should begin with a file and a class of wnids.txt")
        labels[name] = label_of[wnid]
    return labels


def _of_class(folder: Path) -> list[Path]:
    """The images of a class, in the folder itself or in images, as it was published."""
    found = files_in(folder / "images", SUFFIXES) or files_in(folder, SUFFIXES)
    if not found:
        raise UserError(f"{folder} holds no images; there must be some of each class in wnids.txt")
    return found
