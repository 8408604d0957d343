"""Pascal VOC 2007 and 2012: photographs with boxes around the objects of 20 classes. No torch."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.fetch import Remote
from trust_exp.data.readers.images import check_images
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import as_bytes, folders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError, unknown

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# The lists of images that come with boxes: those of the test of 2012 were never published.
LISTS = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FIRST = np.array([1, 1, 0, 0])  # pixels count from 1 and the last one is inside: here from 0, and the end is outside
XML_BYTES = 2**20  # the longest published one has a few thousand


class Voc(Source):
    """Pascal VOC for detection (Everingham et al. 2010). Its parts are lists of images: 2007_trainval, 2007_test, ...

    Beside ``paths`` and ``sizes`` each part holds the boxes of all its images, one image after the other: ``boxes``
    float32 [T, 4] (left, top, right, bottom in pixels, from 0, right and bottom outside), ``boxlabels`` uint8 [T],
    ``difficult`` bool [T]; and ``boxcount`` int32 [N], how many of them are each image's.
    """

    name = "voc"
    task = "detection"
    images: ClassVar = {"2007_trainval": 5011, "2007_test": 4952, "2012_trainval": 11540}
    megabytes = 2911
    licence = "terms of use of Flickr, where the images are from"
    homepage = "http://host.robots.ox.ac.uk/pascal/VOC/"
    layout = "VOCdevkit/VOC2007 and VOC2012 with JPEGImages, Annotations and ImageSets/Main"
    folders = ("VOCdevkit",)
    streams = True
    # As torchvision lists them.
    remotes = (
        Remote(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
            "md5:c52e279531787c972589f7e41ab4ae64",
            460_032_000,
        ),
        Remote(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
            "md5:b6e924de25625d8de591ea690078ad9f",
            451_020_800,
        ),
        Remote(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
            1_999_639_040,
        ),
    )

    def check(self, folder: Path) -> None:
        for path in find_lists(folder).values():
            for beside in ("JPEGImages", "Annotations"):
                if not (path.parents[2] / beside).is_dir():
                    raise UserError(f"{path.parents[2]} lacks the folder {beside}; a VOC devkit has one")

    def read(self, folder: Path, into: Writer) -> None:
        into.info = DatasetInfo(self.name, CLASSES, (3, 448, 448), (0.0, 1.0), task=self.task)
        lists = {part: (path.parents[2], read_list(path)) for part, path in find_lists(folder).items()}
        # The lists overlap: trainval is train and val.
        images = {_image(devkit, name): devkit for devkit, names in lists.values() for name in names}
        sizes, converted, _ = check_images(list(images))
        objects = {}
        for (image, devkit), size in zip(images.items(), sizes.tolist(), strict=True):
            objects[image] = read_objects(devkit / "Annotations" / f"{image.stem}.xml", *size)
        into.count_images(converted)
        into.converted["boxes beyond the border"] = sum(found.clipped for found in objects.values())
        size_of = dict(zip(images, sizes, strict=True))
        for part, (devkit, names) in lists.items():
            listed = [_image(devkit, name) for name in names]
            own = [objects[image] for image in listed]
            into.put(
                part,
                paths=as_bytes(image.relative_to(folder) for image in listed),
                sizes=np.stack([size_of[image] for image in listed]),
                boxes=np.concatenate([found.boxes for found in own]),
                boxlabels=np.concatenate([found.labels for found in own]),
                difficult=np.concatenate([found.difficult for found in own]),
                boxcount=np.array([len(found.labels) for found in own], np.int32),
            )


def _image(devkit: Path, name: str) -> Path:
    return devkit / "JPEGImages" / f"{name}.jpg"


def find_lists(folder: Path) -> dict[str, Path]:
    """The lists of images in ``folder``, its devkit or those of unpacked archives, by part, such as 2007_test.

    Raises:
        UserError: if there is none, or one twice.
    """
    found: dict[str, Path] = {}
    for year, names in LISTS.items():
        for devkit in _devkits(folder, f"VOC{year}"):
            for path in (devkit / "ImageSets" / "Main" / f"{name}.txt" for name in names):
                part = f"{year}_{path.stem}"
                if path.is_file() and found.setdefault(part, path) != path:
                    raise UserError(
                        f"{folder} holds {part} twice ({found[part]}, {path}); give a folder that holds one"
                    )
    if not found:
        raise UserError(f"{folder} lacks a list of images such as VOCdevkit/VOC2007/ImageSets/Main/test.txt")
    return found


def _devkits(folder: Path, year: str) -> Iterator[Path]:
    if folder.name == year:
        yield folder
    for place in folders(folder):  # each archive may have been unpacked into a folder of its own
        if (place / year).is_dir():
            yield place / year


def read_list(path: Path) -> list[str]:
    """The names of images in a list, without their ending.

    Raises:
        UserError: if it cannot be read, is empty or names an image twice.
    """
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of images: {error}") from error
    if not names:
        raise UserError(f"{path} names no image at all")
    if len(set(names)) < len(names):
        raise UserError(f"{path} names {len(names) - len(set(names))} images twice")
    return names


class Objects(NamedTuple):
    """The objects in an image; ``clipped`` counts boxes that reached beyond it by up to a pixel."""

    boxes: np.ndarray  # float32 [M, 4]: left, top, right, bottom
    labels: np.ndarray  # uint8 [M]
    difficult: np.ndarray  # bool [M]
    clipped: int


def read_objects(path: Path, height: int, width: int) -> Objects:
    """The objects that an annotation gives an image of ``height`` times ``width`` pixels.

    In the file the first pixel is 1 and ``xmax``, ``ymax`` lie inside; here it is 0 and right, bottom lie outside.

    Raises:
        UserError: if the file is missing or no such annotation, or a class, a box or the size cannot be the image's.
    """
    root = _parse(path)
    if (size := root.find("size")) is not None:
        given = _number(size, "height", path), _number(size, "width", path)
        if given != (height, width):
            raise UserError(f"{path} is of an image of {given[1]:g}x{given[0]:g}; the image has {width}x{height}")
    objects = root.findall("object")
    names = [(node.findtext("name") or "").strip() for node in objects]
    for name in names:
        if name not in CLASSES:
            raise unknown(f"{path}: the class", name, CLASSES)
    corners = np.array([_corners(node, path) for node in objects]).reshape(-1, 4)
    boxes = _inside(corners - FIRST, height, width, path)
    return Objects(
        boxes.astype(np.float32),
        np.array([CLASSES.index(name) for name in names], np.uint8),
        np.array([(node.findtext("difficult") or "0").strip() == "1" for node in objects], bool),
        int((boxes != corners - FIRST).any(1).sum()),
    )


def _corners(node: ElementTree.Element, path: Path) -> list[float]:
    box = node.find("bndbox")
    if box is None:
        raise UserError(f"{path} has an object without bndbox")
    return [_number(box, corner, path) for corner in CORNERS]


def _number(node: ElementTree.Element, tag: str, path: Path) -> float:
    text = node.findtext(tag)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path} needs a number as {tag} of its {node.tag}; got {text!r}")
    return number


def _inside(boxes: np.ndarray, height: int, width: int, path: Path) -> np.ndarray:
    """``boxes`` (float [M, 4]) within the image: rounding moves a border by up to a pixel, more is a mistake."""
    inside = boxes.clip(0, (width, height, width, height))
    for box, kept in zip(boxes, inside, strict=True):
        where = ", ".join(f"{corner} {value:g}" for corner, value in zip(CORNERS, box + FIRST, strict=True))
        if np.abs(box - kept).max() > 1:
            raise UserError(f"{path} has a box outside its image of {width}x{height}: {where}")
        if not (kept[:2] < kept[2:]).all():
            raise UserError(f"{path} has an empty box: {where}")
    return inside


class _Tree(ElementTree.TreeBuilder):
    """Refuses a document type: it may define entities that grow without end, and no annotation has one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise UserError("has a document type, which no annotation has")


def _parse(path: Path) -> ElementTree.Element:
    try:
        with path.open("rb") as file:
            content = file.read(XML_BYTES + 1)
        if len(content) > XML_BYTES:
            raise UserError(f"is longer than {XML_BYTES} bytes, which no annotation is")
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Tree()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); each listed image needs its annotation") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not well-formed XML: {error}") from error
    except UserError as error:
        raise UserError(f"{path} {error}") from error
