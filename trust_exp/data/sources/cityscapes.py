"""Cityscapes: street scenes with fine and coarse label maps. No torch."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import UNKNOWN, DatasetInfo
from trust_exp.data.readers.images import check_images, read_labels
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.label_maps import as_rows, for_each, read_map
from trust_exp.data.sources.layout import as_bytes, folders
from trust_exp.data.sources.listing import files_in, subfolders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

# The classes of the benchmark by the number that label maps give them; the other numbers do not count.
CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
MOST = 33
LICENCE_PLATE = 255  # -1 in a byte
# Of each part: the folder of its images, and the kind of its labels.
PARTS = {
    "train": ("train", "gtFine"),
    "val": ("val", "gtFine"),
    "train_extra": ("train_extra", "gtCoarse"),
    "train_coarse": ("train", "gtCoarse"),
    "val_coarse": ("val", "gtCoarse"),
}
IMAGES = "leftImg8bit"
ENDINGS = (".png", ".jpg", ".jpeg")


class Cityscapes(Source):
    """Street scenes of 50 cities with 19 classes (Cordts et al. 2016); the test's labels were never published.

    Images of any one size or several will do, e.g. halved ones, and JPEG files too.
    """

    name = "cityscapes"
    task = "segmentation"
    images: ClassVar = {"train": 2975, "val": 500, "train_extra": 19_998, "train_coarse": 2975, "val_coarse": 500}
    megabytes = 11_500
    licence = "Cityscapes' own, for non-commercial research"
    homepage = "https://www.cityscapes-dataset.com"
    layout = "leftImg8bit and gtFine or gtCoarse, with the folders train and val of cities"
    streams = True

    def __init__(self) -> None:
        self.numbers = np.full(256, UNKNOWN, np.int16)
        self.numbers[list(CLASSES)] = np.arange(len(CLASSES))

    def check(self, folder: Path) -> None:
        places = {name: _named(folder, name) for name in (IMAGES, "gtFine", "gtCoarse")}
        if not places[IMAGES]:
            raise UserError(f"{folder} lacks the folder {IMAGES} with the images")
        if not places["gtFine"] and not places["gtCoarse"]:
            raise UserError(f"{folder} lacks the folder gtFine or gtCoarse with the label maps")

    def read(self, folder: Path, into: Writer) -> None:
        into.info = DatasetInfo(self.name, tuple(CLASSES.values()), (3, 1024, 2048), (0.0, 1.0), task=self.task)
        pairs = {part: found for part, where in PARTS.items() if (found := pair_up(folder, *where))}
        if not pairs:
            raise UserError(f"{folder} has no images with label maps, such as {IMAGES}/train/*/ and gtFine/train/*/")
        images = sorted({image for found in pairs.values() for image, _ in found})
        facts = check_images(images)
        into.count_images(facts.converted)
        size_of = dict(zip(images, facts.sizes.tolist(), strict=True))
        maps = [(path, tuple(size_of[image])) for found in pairs.values() for image, path in found]
        for_each(maps, lambda one: _check_map(*one), f"check {len(maps)} label maps")
        for part, found in pairs.items():
            into.put(
                part,
                paths=as_bytes(image.relative_to(folder) for image, _ in found),
                sizes=np.array([size_of[image] for image, _ in found], np.int32),
                maps=as_rows([[path.relative_to(folder)] for _, path in found]),
            )

    def maps(self, folder: Path, files: np.ndarray) -> np.ndarray:
        labels = read_labels(folder / os.fsdecode(files[0]))
        return self.numbers[labels][None]


def _check_map(path: Path, size: tuple[int, int]) -> None:
    read_map(path, size, MOST, also=(LICENCE_PLATE,))


def _named(folder: Path, name: str) -> list[Path]:
    """The folders of that name in ``folder``: each archive may have been unpacked to a folder of its own."""
    return [place / name for place in folders(folder) if (place / name).is_dir()]


def pair_up(folder: Path, split: str, kind: str) -> list[tuple[Path, Path]]:
    """The images of a split with their label maps of a kind, ordered by name; empty if there are none of either.

    Raises:
        UserError: if one has no counterpart, or is there twice.
    """
    images = _by_stem(folder, IMAGES, split, f"_{IMAGES}", ENDINGS)
    maps = _by_stem(folder, kind, split, f"_{kind}_labelIds", (".png",))
    if not images or not maps:
        return []
    for stem in sorted(images.keys() ^ maps.keys()):
        if stem in images:
            raise UserError(f"{images[stem]} has no label map {stem}_{kind}_labelIds.png")
        raise UserError(f"{maps[stem]} has no image {stem}_{IMAGES}.png")
    return [(images[stem], maps[stem]) for stem in sorted(images)]


def _by_stem(folder: Path, name: str, split: str, suffix: str, endings: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in _named(folder, name):
        for path in (path for city in subfolders(place / split) for path in files_in(city, endings)):
            if not path.stem.endswith(suffix):
                continue
            stem = path.stem.removesuffix(suffix)
            if found.setdefault(stem, path) != path:
                raise UserError(f"{path} is there twice: also as {found[stem]}")
    return found
