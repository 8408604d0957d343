"""Cityscapes-Parts: 100 images of Cityscapes with parts of objects, drawn as shapes with labelme. No torch."""

import base64
import binascii
import math
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trust_exp.data.config import NOTHING, UNKNOWN, DatasetInfo, Layer
from trust_exp.data.readers.images import ENDINGS, read_rgb, too_large
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.label_maps import for_each, put_labels
from trust_exp.data.sources.layout import folders
from trust_exp.data.sources.listing import files_below, files_in
from trust_exp.data.store import Writer
from trust_exp.errors import UserError, quoted
from trust_exp.parsing import parse_json

PART = "all"
IMAGES = "leftImg8bit"
POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}  # the least number of points of a shape with an area


class CityscapesParts(Source):
    """Parts of objects in streets, 40 concepts in 100 images (Losch 2024, sec. 5.4.1), from labelme's JSON files.

    The concepts are the labels that occur, in order of the alphabet. A pixel has the concepts of all shapes that it
    lies in; there are as many layers as one pixel needs. As the images are densely labelled, a pixel in no shape has
    NOTHING. Images are found by ``imagePath``, by name below the folder leftImg8bit, or inside the JSON file.
    """

    name = "cityscapes_parts"
    task = "segmentation"
    images: ClassVar = {PART: 100}
    megabytes = 1200
    licence = "that of Cityscapes for the images"
    homepage = "https://doi.org/10.17617/3.B1ZS6"
    layout = "labelme's JSON files, and beside them their images or leftImg8bit"

    def check(self, folder: Path) -> None:
        find_drawings(folder)

    def read(self, folder: Path, into: Writer) -> None:
        paths = find_drawings(folder)
        drawings = [read_drawing(path) for path in paths]
        concepts = tuple(sorted({shape.label for drawing in drawings for shape in drawing.shapes}))
        if not concepts:
            raise UserError(f"{paths[0].parent} has JSON files of labelme, but no shape in any of them")
        size = drawings[0].size
        for drawing in drawings:
            if drawing.size != size:
                height, width = drawing.size
                raise UserError(f"{drawing.path} is of {width}x{height} pixels and {paths[0]} of {size[1]}x{size[0]}")
        depths = for_each(drawings, lambda one: len(rasterise(one, concepts)), "draw the shapes")
        layers = (Layer("part", concepts),) * max(depths)
        into.info = DatasetInfo(self.name, (), (3, *size), (0.0, 1.0), task=self.task, layers=layers)
        n = len(drawings)
        images = into.array(PART, "images", (n, 3, *size), np.uint8)
        into.array(PART, "labels", (n, *size), np.int8)[...] = UNKNOWN
        maps = into.array(PART, "concepts", (n, len(layers), *size), np.int16)
        maps[...] = NOTHING
        by_name = _images_below(folder)

        def fill(row: int) -> None:
            images[row] = _pixels(drawings[row], by_name).transpose(2, 0, 1)
            for layer, drawn in enumerate(rasterise(drawings[row], concepts)):
                maps[row, layer] = drawn

        for_each(range(n), fill, f"read {n} images and draw their shapes")


class Shape(NamedTuple):
    """An annotated shape: float64 [M, 2], x and y of its points in pixels."""

    label: str
    kind: str
    points: np.ndarray


class Drawing(NamedTuple):
    """A JSON file of labelme."""

    path: Path
    size: tuple[int, int]
    image: str
    shapes: tuple[Shape, ...]


def find_drawings(folder: Path) -> list[Path]:
    """The JSON files in the outermost folder that has any.

    Raises:
        UserError: if there is none.
    """
    for place in folders(folder):
        if found := files_in(place, (".json",)):
            return found
    raise UserError(f"{folder} lacks JSON files of labelme")


def read_drawing(path: Path) -> Drawing:
    """The contents of a JSON file of labelme, except the image.

    Raises:
        UserError: if it is not such a file, or has a shape without an area.
    """
    content = _load(path)
    try:
        shapes = tuple(_shape(entry, path) for entry in content["shapes"])
        height, width = content["imageHeight"], content["imageWidth"]
        if type(height) is not int or type(width) is not int or min(height, width) < 1:
            raise ValueError(f"an image of {quoted(height)} by {quoted(width)} pixels is none")
        if defect := too_large(height, width):
            raise UserError(f"{path} {defect}")
        return Drawing(path, (height, width), str(content.get("imagePath") or ""), shapes)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not a file of labelme with shapes, imageHeight and imageWidth: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a file of labelme: it holds no object")
    return content


def _shape(entry: dict[str, Any], path: Path) -> Shape:
    label, kind = str(entry["label"]).strip(), entry.get("shape_type") or "polygon"  # older files name no type
    points = np.array(entry["points"], np.float64)
    if kind not in POINTS:
        raise UserError(f"{path} has a {kind} for {label!r}; shapes with an area are {', '.join(POINTS)}")
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < POINTS[kind] or not np.isfinite(points).all():
        raise UserError(f"{path} has a {kind} for {label!r} without {POINTS[kind]} points")
    return Shape(label, kind, points)


def rasterise(drawing: Drawing, concepts: tuple[str, ...]) -> list[np.ndarray]:
    """The layers of concepts that the shapes give, int16 [H, W] each; see ``put_labels``."""
    layers = [np.full(drawing.size, NOTHING, np.int16)]
    for shape in drawing.shapes:
        labels = np.full(drawing.size, NOTHING, np.int16)
        labels[inside(shape, drawing.size)] = concepts.index(shape.label)
        put_labels(layers, labels)
    return layers


def inside(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Which pixels a shape covers, its outline too, bool [H, W]; as labelme draws it."""
    from PIL import Image, ImageDraw

    image = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    first, second = shape.points[0], shape.points[1]
    if shape.kind == "circle":
        radius = math.dist(first, second)
        draw.ellipse([*(first - radius), *(first + radius)], fill=1)
    elif shape.kind == "rectangle":
        draw.rectangle([*shape.points.min(0), *shape.points.max(0)], fill=1)
    else:
        draw.polygon([(x, y) for x, y in shape.points.tolist()], fill=1, outline=1)
    return np.array(image)


def _images_below(folder: Path) -> dict[str, Path]:
    """The images below a folder leftImg8bit, by name without ending."""
    places: Iterator[Path] = (place / IMAGES for place in folders(folder))
    files = (path for place in places if place.is_dir() for path in files_below(place))
    return {path.stem: path for path in files if path.suffix.lower() in ENDINGS}


def _pixels(drawing: Drawing, by_name: dict[str, Path]) -> np.ndarray:
    name = PureWindowsPath(drawing.image).as_posix()  # labelme writes the separators of its system
    beside = drawing.path.parent / name
    found = beside if name and os.path.isfile(beside) else by_name.get(Path(name).stem)
    pixels = read_rgb(found or _embedded(drawing), str(found or drawing.path), upright=True)  # as labelme shows it
    if pixels.shape[:2] != drawing.size:
        height, width = drawing.size
        raise UserError(
            f"{found or drawing.path} has {pixels.shape[1]}x{pixels.shape[0]} pixels "
            f"and in {drawing.path} {width}x{height}"
        )
    return pixels


def _embedded(drawing: Drawing) -> bytes:
    data = _load(drawing.path).get("imageData")
    if not data:
        raise UserError(
            f"{drawing.path} is of the image {drawing.image!r}, "
            f"which is neither beside it nor below {IMAGES} nor inside"
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise UserError(f"{drawing.path} has imageData that cannot be decoded: {error}") from error
