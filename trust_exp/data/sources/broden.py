"""Broden: images with labels of objects, parts, materials, textures and colours, several for a pixel. No torch."""

import csv
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from trust_exp.data.config import NOTHING, UNKNOWN, DatasetInfo, Layer
from trust_exp.data.readers.images import check_images
from trust_exp.data.readers.images import read_labels as read_label_map
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.label_maps import as_rows, for_each, put_labels
from trust_exp.data.sources.layout import as_bytes, folders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

FILES = ("index.csv", "category.csv", "label.csv")
SCENE = "scene"  # said of the whole image: no concept of a pixel
SIZES = ("ih", "iw", "sh", "sw")


class Broden(Source):
    """The dataset of Network Dissection (Bau et al. 2017): broden1_224 or broden1_227, in its own layout.

    A cell of index.csv names the maps of an image in a category, or numbers that hold for all of the image. A label
    counts in one category only, that in which it covers most, as Network Dissection has it: the 1,197 labels less the
    468 of scenes are the 729 concepts of Losch 2024, sec. 5.4.1. A pixel keeps all of its labels: each kind of concepts
    has as many layers as one pixel needs. Where an image has a cell of a kind, a pixel without such a label has NOTHING
    of it; where the cell is empty it is UNKNOWN.

    The maps are served as they are stored, at half the resolution of the images.
    """

    name = "broden"
    task = "segmentation"
    images: ClassVar = {"train and val": 63_305}
    megabytes = 1500
    licence = "those of ADE20K, OpenSurfaces, Pascal and DTD, which it joins"
    homepage = "https://github.com/CSAILVision/NetDissect"
    layout = "index.csv, category.csv, label.csv, c_*.csv and the folder images"
    folders = ("broden1_224", "broden1_227", "broden1_384")
    streams = True

    def check(self, folder: Path) -> None:
        _root(folder)

    def read(self, folder: Path, into: Writer) -> None:
        root = _root(folder)
        labels = read_labels(root)
        rows = read_index(root / "index.csv", labels.kinds)
        if not rows:
            raise UserError(f"{root / 'index.csv'} names no image at all")
        facts = check_images([root / "images" / row.image for row in rows])
        into.count_images(facts.converted)
        for row, size in zip(rows, facts.sizes.tolist(), strict=True):
            if tuple(size) != row.size:
                raise UserError(
                    f"{root / 'images' / row.image} has {size[1]}x{size[0]} pixels and in index.csv "
                    f"{row.size[1]}x{row.size[0]}"
                )
        found = for_each(rows, lambda row: _depths(root, row, labels), f"check the labels of {len(rows)} images")
        depths = np.max(found, axis=0).clip(min=1)
        layers = tuple(
            Layer(kind, labels.concepts[kind])
            for kind, depth in zip(labels.kinds, depths, strict=True)
            for _ in range(depth)
        )
        into.info = DatasetInfo(self.name, (), (3, *rows[0].size), (0.0, 1.0), task=self.task, layers=layers)
        inner = root.relative_to(folder)
        last = ";".join(map(str, depths))
        for part in sorted({row.split for row in rows}):
            own = [number for number, row in enumerate(rows) if row.split == part]
            into.put(
                part,
                paths=as_bytes(inner / "images" / rows[number].image for number in own),
                sizes=facts.sizes[own],
                maps=as_rows([[*rows[number].cells, last] for number in own]),
            )

    def maps(self, folder: Path, files: np.ndarray) -> np.ndarray:
        """As of Source; ``files`` are the cells of the row by kind, and then how many layers each kind has."""
        *cells, last = map(os.fsdecode, files)
        root = _root(folder)
        layers = stack_up(root, cells, read_labels(root))
        for kind, cell, depth in zip(layers, cells, last.split(";"), strict=True):
            kind.extend(np.full_like(kind[0], background(cell)) for _ in range(int(depth) - len(kind)))
        return np.stack([layer for kind in layers for layer in kind])


class Labels(NamedTuple):
    """The labels of a Broden folder: their concepts by kind, and for each number the kind and the place in it."""

    kinds: tuple[str, ...]
    concepts: dict[str, tuple[str, ...]]
    kind: np.ndarray  # int16 [numbers], -1 where there is no concept
    place: np.ndarray  # int16 [numbers]


class Row(NamedTuple):
    """An image of index.csv; ``cells`` are those of the kinds of concepts."""

    image: str
    split: str
    size: tuple[int, int]
    map_size: tuple[int, int]
    cells: tuple[str, ...]


@cache
def _root(folder: Path) -> Path:
    for place in folders(folder):
        missing = [name for name in (*FILES, "images") if not (place / name).exists()]
        if not missing:
            return place
        if "index.csv" not in missing:
            raise UserError(f"{place} lacks {', '.join(missing)}")
    raise UserError(f"{folder} lacks {', '.join(FILES)}; Broden comes with them")


@cache
def read_labels(root: Path) -> Labels:
    """The contents of category.csv, label.csv and the c_*.csv.

    Raises:
        UserError: if one is missing, or lacks a column or a number.
    """
    kinds = tuple(row["name"] for row in read_csv(root / "category.csv", ("name",)) if row["name"] != SCENE)
    names = {
        _whole(row, "number", root / "label.csv"): row["name"]
        for row in read_csv(root / "label.csv", ("number", "name"))
    }
    covers: dict[int, list[tuple[float, int]]] = {}
    for at, kind in enumerate(kinds):
        path = root / f"c_{kind}.csv"
        for row in read_csv(path, ("number", "coverage")):
            number = _whole(row, "number", path)
            if number not in names:
                raise UserError(f"{path} has the label {number}, which label.csv lacks")
            covers.setdefault(number, []).append((_coverage(row, path), at))
    most = max(names) + 1
    labels = Labels(kinds, {}, np.full(most, -1, np.int16), np.full(most, -1, np.int16))
    for at, kind in enumerate(kinds):
        own = [number for number in covers if max(covers[number])[1] == at]
        labels.kind[own], labels.place[own] = at, np.arange(len(own))
        labels.concepts[kind] = tuple(names[number] for number in own)
    return labels


def read_index(path: Path, kinds: Iterable[str]) -> list[Row]:
    """The images of an index.csv.

    Raises:
        UserError: if it lacks a column, or a size or a split is malformed.
    """
    kinds = tuple(kinds)
    table = read_csv(path, ("image", "split", *SIZES, *kinds))
    for row in table:
        if not re.fullmatch(r"\w+", row["split"]):
            raise UserError(f"{path} has {row['split']!r} as split of {row['image']}; it must be a word such as train")
    return [
        Row(
            row["image"],
            row["split"],
            (_whole(row, "ih", path), _whole(row, "iw", path)),
            (_whole(row, "sh", path), _whole(row, "sw", path)),
            tuple(row[kind] for kind in kinds),
        )
        for row in table
    ]


def read_csv(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table with at least these columns, each with a value.

    Raises:
        UserError: if it cannot be read, or lacks one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            missing = sorted(set(columns) - set(table.fieldnames or ()))
            if missing:
                raise UserError(f"{path} lacks the column {', '.join(missing)}")
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    for line, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise UserError(f"{path} has too few columns in line {line}")
    return rows


def _whole(row: dict[str, str], column: str, path: Path) -> int:
    if not re.fullmatch(r"\d{1,9}", row[column]):
        raise UserError(f"{path} has {row[column]!r} as {column}; it must be a whole number")
    return int(row[column])


def _coverage(row: dict[str, str], path: Path) -> float:
    try:
        return float(row["coverage"])
    except ValueError:
        raise UserError(f"{path} has {row['coverage']!r} as coverage; it must be a number") from None


def stack_up(root: Path, cells: Iterable[str], labels: Labels) -> list[list[np.ndarray]]:
    """The layers of each kind for an image, from its cells.

    Raises:
        UserError: if a map is damaged, has another size than the first, or a label that is in no category.
    """
    cells = tuple(cells)
    given = [_read_cell(root, cell) for cell in cells]
    size = next((one.shape for maps in given for one in maps if one.ndim), (1, 1))
    layers = [[np.full(size, background(cell), np.int16)] for cell in cells]
    for cell, maps in zip(cells, given, strict=True):
        for numbers in maps:
            if numbers.ndim and numbers.shape != size:
                raise UserError(f"{root / 'images'}: the maps {cell} differ in size from the others of their image")
            for kind in _kinds(numbers, labels, f"{root / 'images'}: {cell}"):
                of_kind = np.where(labels.kind[numbers] == kind, labels.place[numbers], np.int16(NOTHING))
                put_labels(layers[kind], np.broadcast_to(of_kind, size), background(cells[kind]))
    return layers


def background(cell: str) -> int:
    """The value of a kind where an image has none of its concepts: UNKNOWN if the cell is empty."""
    return NOTHING if cell else UNKNOWN


def _kinds(numbers: np.ndarray, labels: Labels, where: str) -> list[int]:
    """The kinds that the labels in a map are of."""
    present = np.unique(numbers[numbers > 0])
    wrong = present[present >= len(labels.kind)].tolist()
    kinds: list[int] = np.unique(labels.kind[present[present < len(labels.kind)]]).tolist()
    if wrong or -1 in kinds:
        label = wrong[0] if wrong else present[labels.kind[present] < 0][0]
        raise UserError(f"{where} has the label {label}, which no c_*.csv of objects, parts, ... lists")
    return kinds


def _read_cell(root: Path, cell: str) -> list[np.ndarray]:
    """The maps of a cell, int32 [h, w], or the numbers for all of the image, int32 []."""
    return [
        np.array(int(token), np.int32) if re.fullmatch(r"[0-9]{1,9}", token) else _read_map(root / "images" / token)
        for token in cell.split(";")
        if token
    ]


def _read_map(path: Path) -> np.ndarray:
    labels = read_label_map(path)
    if labels.ndim != 3:
        raise UserError(f"{path} must be a picture in colours: a label is red + 256 green")
    return labels[..., 0] + 256 * labels[..., 1].astype(np.int32)


def _depths(root: Path, row: Row, labels: Labels) -> list[int]:
    layers = stack_up(root, row.cells, labels)
    sizes = {layer.shape for kind in layers for layer in kind} - {(1, 1)}
    if sizes and sizes != {row.map_size}:
        height, width = sizes.pop()
        raise UserError(
            f"{root / 'images' / row.image} has maps of {width}x{height} pixels and in index.csv "
            f"{row.map_size[1]}x{row.map_size[0]}"
        )
    return [len(kind) for kind in layers]
