"""Caltech-UCSD Birds: photographs of 200 species of birds, each with a box around the bird. No torch."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.fetch import Remote
from trust_exp.data.readers.files import lines
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.folder import stream_info, write_index
from trust_exp.data.sources.layout import holding
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

IMAGES, CLASSES = "images.txt", "classes.txt"
LABELS, SPLIT, BOXES = "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"
TABLES = (IMAGES, CLASSES, LABELS, SPLIT, BOXES)


class Cub200(Source):
    """CUB-200-2011 (Wah et al. 2011). Beside the usual index ``boxes`` int32 [N, 4]: left, top, right, bottom.

    Images are served as they are stored, whatever EXIF says: the boxes are drawn on stored pixels.

    ProtoPNet trains on images cropped to the boxes (``dataset.crop=true``), on 30 changed copies of each
    (``dataset.copies=30``, see copies.py) resized to a square without a further change.
    """

    name = "cub200"
    images: ClassVar = {"train": 5994, "test": 5794}
    megabytes = 1150
    licence = "non-commercial research and education only"
    homepage = "https://data.caltech.edu/records/65de6-vp158"
    layout = f"CUB_200_2011 with images and {', '.join(TABLES)}"
    folders = ("CUB_200_2011",)
    # The checksum as many projects list it, among them avalanche and cub2011_dataset.
    remotes = (Remote(f"{homepage}/files/CUB_200_2011.tgz", "md5:97eceeb196236b17998738112f37df78"),)
    streams = True

    def check(self, folder: Path) -> None:
        find_images(folder)

    def read(self, folder: Path, into: Writer) -> None:
        place = find_images(folder)
        names, classes = read_table(place / IMAGES), read_table(place / CLASSES)
        labels = read_numbers(place / LABELS, 1, names, range(1, len(classes) + 1))[:, 0].astype(int) - 1
        training = read_numbers(place / SPLIT, 1, names, range(2))[:, 0] == 1
        boxes = read_numbers(place / BOXES, 4, names)
        paths = np.array([str(place / "images" / name) for name in names.values()])
        rows = {"train": np.flatnonzero(training), "test": np.flatnonzero(~training)}
        parts = {part: list(zip(paths[own].tolist(), labels[own].tolist(), strict=True)) for part, own in rows.items()}
        sizes = write_index(folder, parts, into, upright=False)
        order = np.concatenate(list(rows.values()))
        corners = to_corners(boxes[order], sizes, paths[order])
        into.put("train", boxes=corners[: len(rows["train"])])
        into.put("test", boxes=corners[len(rows["train"]) :])
        into.info = stream_info(self.name, [name.partition(".")[2] or name for name in classes.values()])


def find_images(folder: Path) -> Path:
    """The folder with the tables and the images.

    Raises:
        UserError: if one of them is missing.
    """
    place = holding(folder, *TABLES)
    if place is None or not (place / "images").is_dir():
        lacking = ", ".join(TABLES) if place is None else "the folder images"
        raise UserError(f"{place or folder} lacks {lacking}; dataset=cub200 needs {Cub200.layout}")
    return place


def read_table(path: Path) -> dict[str, str]:
    """The text after each number of a table.

    Raises:
        UserError: if a line has nothing after its number, or a number occurs twice.
    """
    table: dict[str, str] = {}
    for line in lines(path):
        number, _, value = line.partition(" ")
        if not value or number in table:
            raise UserError(f"{path}: the line {line!r} {'repeats a number' if value else 'has nothing but a number'}")
        table[number] = value.strip()
    if not table:
        raise UserError(f"{path} is empty")
    return table


def read_numbers(path: Path, width: int, images: dict[str, str], allowed: range | None = None) -> np.ndarray:
    """The numbers of each image, float64 [N, width], in the order of ``images``.

    Raises:
        UserError: if an image has none, or they are not ``width`` numbers, each among the ``allowed``.
    """
    table = read_table(path)
    if table.keys() != images.keys():
        single = next(iter(images.keys() ^ table.keys()))
        raise UserError(f"{path} and {path.with_name(IMAGES)} do not match: only one of them has image {single}")
    rows = []
    for number in images:
        try:
            row = [float(text) for text in table[number].split()]
        except ValueError:
            row = []
        if len(row) != width or not np.isfinite(row).all():
            raise UserError(f"{path}: image {number} has {table[number]!r}; expected: {width} numbers")
        if allowed is not None and row[0] not in allowed:
            raise UserError(f"{path}: image {number} has {table[number]}; expected: {allowed[0]} to {allowed[-1]}")
        rows.append(row)
    return np.array(rows)


def to_corners(boxes: np.ndarray, sizes: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Boxes (left, top, width, height) as left, top, right, bottom in whole pixels of their images, int32 [N, 4].

    Raises:
        UserError: for the first box that has no pixel in its image.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).round()
    corners = corners.clip(0, sizes[:, [1, 0, 1, 0]]).astype(np.int32)
    empty = np.flatnonzero((corners[:, :2] >= corners[:, 2:]).any(1))
    if len(empty):
        raise UserError(f"{BOXES} gives {paths[empty[0]]} the box {boxes[empty[0]].tolist()}, which has no pixel in it")
    return corners
