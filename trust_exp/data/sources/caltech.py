"""Caltech-101 and Caltech-256: photographs of objects, a folder for each class. No torch."""

from pathlib import Path
from typing import ClassVar

from trust_exp.data.fetch import Remote, unpack
from trust_exp.data.remarks import Remarks
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.folder import EVERY, Classes, find_parts, list_classes, write_classes
from trust_exp.data.sources.layout import folders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError


class Caltech(Source):
    """One of the two sets. Neither has an official split: every fifth image, by name over all classes, is for testing.

    A copy that is split into folders train and test already keeps its split. Images stand upright as EXIF has it.
    """

    inside: ClassVar[str]  # the folder of the classes, or its archive with .tar.gz
    left_out: ClassVar[tuple[str, ...]] = ()
    streams = True
    reading = 2  # EXIF's orientation

    def check(self, folder: Path) -> None:
        if not find_parts(folder, Remarks()):
            self._find(folder)

    def read(self, folder: Path, into: Writer) -> None:
        if places := find_parts(folder, into.remarks):
            parts = {part: self._classes(place, into.remarks) for part, place in places.items()}
        else:
            parts = split(self._classes(self._unpacked(self._find(folder)), into.remarks))
        write_classes(self.name, folder, parts, into)

    def _find(self, folder: Path) -> Path:
        """The folder of the classes, or its archive: that of Caltech-101 holds another one."""
        for place in folders(folder):
            if place.name == self.inside and not (place / self.inside).is_dir():
                return place
            if (archive := place / f"{self.inside}.tar.gz").is_file():
                return archive
        raise UserError(f"{folder} lacks the folder {self.inside}; dataset={self.name} needs {self.layout}")

    def _unpacked(self, place: Path) -> Path:
        """The folder of the classes; an archive is unpacked beside itself and served from there."""
        if place.is_file():
            place = unpack(place, place.with_name(self.inside))
        while (place / self.inside).is_dir():
            place /= self.inside
        return place

    def _classes(self, place: Path, remarks: Remarks) -> Classes:
        return {name: files for name, files in list_classes(place, remarks).items() if name not in self.left_out}


class Caltech101(Caltech):
    """Caltech-101 without its background images; Faces and Faces_easy are two classes."""

    name = "caltech101"
    images: ClassVar = {"train": 6941, "test": 1736}
    megabytes = 140
    licence = "not stated with the images"
    homepage = "https://data.caltech.edu/records/mzrjq-6wc02"
    layout = "101_ObjectCategories/<class>/image_<number>.jpg"
    folders = ("caltech-101", "101_ObjectCategories")
    # As torchvision lists it.
    remotes = (Remote(f"{homepage}/files/caltech-101.zip", "md5:3138e1922a9193bfa496528edbbc45d0"),)
    inside = "101_ObjectCategories"
    left_out = ("BACKGROUND_Google",)


class Caltech256(Caltech):
    """Caltech-256 with its clutter as a class, as robust training on it counts them (Losch 2024, Table 3.1: 257)."""

    name = "caltech256"
    images: ClassVar = {"train": 24_485, "test": 6122}
    megabytes = 1200
    licence = "not stated with the images"
    homepage = "https://data.caltech.edu/records/nyy15-4j048"
    layout = "256_ObjectCategories/<number>.<class>/<number>_<number>.jpg"
    folders = ("256_ObjectCategories",)
    # As torchvision lists it.
    remotes = (Remote(f"{homepage}/files/256_ObjectCategories.tar", "md5:67b4f42ca05d46448c6bb8ecd2220f6d"),)
    inside = "256_ObjectCategories"


def split(classes: Classes) -> dict[str, Classes]:
    """Every fifth image for testing, counted over all classes: 6122 of Caltech-256's 30,607, as others have it."""
    train: Classes = {}
    test: Classes = {}
    start = 0
    for name, files in classes.items():
        first = -start % EVERY
        test[name] = files[first::EVERY]
        train[name] = [file for place, file in enumerate(files, start) if place % EVERY]
        start += len(files)
    return {"train": train, "test": test}
