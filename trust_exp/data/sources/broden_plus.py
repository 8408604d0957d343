"""Broden+: parts of objects in ADE20K and Pascal, and materials in OpenSurfaces. No torch."""

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from trust_exp.data.config import NOTHING, UNKNOWN, DatasetInfo, Layer
from trust_exp.data.readers.images import check_images, read_labels
from trust_exp.data.readers.matlab import read_mat
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.broden import read_csv
from trust_exp.data.sources.label_maps import as_rows, for_each, unknown_map
from trust_exp.data.sources.layout import as_bytes, folders
from trust_exp.data.sources.listing import files_below, files_in
from trust_exp.data.store import Writer
from trust_exp.errors import UserError, quoted, unknown
from trust_exp.parsing import parse_json

RECORDS = {
    "train": ("broden_ade20k_pascal_train.json", "broden_os_train.json"),
    "val": ("broden_ade20k_pascal_val.json", "broden_os_val.json"),
}
TABLES = ("material.csv", "object_part_hierarchy.csv", "label_assignment.csv")
ADE, PASCAL, SURFACES = "ade20k", "pascal", "opensurfaces"
CHOICE = "concepts.txt"  # a user's own list

# Losch 2024, Tab. 5.1, in the names of Broden+: a shop there is a shop window, a bike a bicycle, its chain a chain
# wheel and its handle a handle bar. The text counts 59 parts and 11 materials; the table has 56 and 11.
STREET_PARTS = {
    "sky": ("cloud",),
    "building": ("window", "door", "roof", "shop window", "wall"),
    "person": (
        *("leg", "head", "torso", "arm", "eye", "ear", "nose"),
        *("hand", "hair", "mouth", "foot", "eyebrow", "back"),
    ),
    "road": ("crosswalk",),
    "car": ("window", "door", "wheel", "headlight", "mirror", "roof", "taillight", "windshield", "bumper"),
    "van": ("window", "door", "wheel", "headlight", "taillight", "windshield"),
    "truck": ("wheel", "windshield"),
    "bus": ("window", "door", "wheel", "headlight", "mirror"),
    "train": ("head", "headlight", "head roof", "coach roof"),
    "lamp": ("arm", "shade", "bulb"),
    "bicycle": ("wheel", "handle bar", "saddle", "chain wheel"),
    "motorbike": ("wheel", "headlight", "handle bar"),
}
STREET_MATERIALS = (
    *("brick", "fabric", "foliage", "glass", "metal", "plastic"),
    *("rubber/latex", "skin", "stone", "tile", "wood"),
)
STREET = (*(f"{name}/{part}" for name, parts in STREET_PARTS.items() for part in parts), *STREET_MATERIALS)


class BrodenPlus(Source):
    """Broden+ for unified perceptual parsing (Xiao et al. 2018), as its scripts lay it out: 350 parts, 25 materials.

    A part is that of an object, as car/wheel. ADE20K and Pascal have parts, OpenSurfaces has materials; the other kind
    is UNKNOWN. So is a pixel without an object, and one of an object whose parts are not marked in this image: as in
    Xiao et al., where fewer than two of its parts are there, the rest of it counting as one. A pixel of another
    object, or of another part, has NOTHING. A pixel without a material is UNKNOWN, one of another material has NOTHING.
    """

    name = "broden_plus"
    task = "segmentation"
    images: ClassVar = {"train": 29_082 + 17_226, "val": 3_231 + 1_914}
    megabytes = 16_000
    licence = "those of ADE20K, Pascal and OpenSurfaces, which it joins"
    homepage = "https://github.com/CSAILVision/unifiedparsing"
    layout = "broden_dataset with ade20k, pascal and opensurfaces, and the tables and lists of meta_file"
    folders: ClassVar[tuple[str, ...]] = ("unifiedparsing", "broden_dataset")
    streams = True

    def chosen(self, folder: Path) -> tuple[str, ...] | None:
        """The concepts that are served; None: all."""
        return None

    def check(self, folder: Path) -> None:
        _root(folder)
        for name in TABLES:
            _meta(folder, name)

    def read(self, folder: Path, into: Writer) -> None:
        tables = self._tables(folder)
        into.info = DatasetInfo(self.name, (), (3, 512, 512), (0.0, 1.0), task=self.task, layers=tables.layers)
        samples = {part: _samples(folder, names) for part, names in RECORDS.items()}
        everything = [sample for part in samples.values() for sample in part]
        if not everything:
            raise UserError(f"{folder} has no list of images such as meta_file/{RECORDS['train'][0]}")
        facts = check_images([sample.image for sample in everything])
        into.count_images(facts.converted)
        for sample, size in zip(everything, facts.sizes.tolist(), strict=True):
            _check_shape(sample, tuple(size))
        for_each(
            everything, lambda one: tables.maps(one.kind, one.files), f"check the labels of {len(everything)} images"
        )
        sizes = dict(zip((sample.image for sample in everything), facts.sizes, strict=True))
        for part, own in samples.items():
            if own:
                into.put(
                    part,
                    paths=as_bytes(sample.image.relative_to(folder) for sample in own),
                    sizes=np.stack([sizes[sample.image] for sample in own]),
                    maps=as_rows(
                        [
                            [tables.digest, sample.kind, *(_relative(path, folder) for path in sample.files)]
                            for sample in own
                        ]
                    ),
                )

    def maps(self, folder: Path, files: np.ndarray) -> np.ndarray:
        """As of Source; ``files`` are the digest of the tables, a dataset and its two files of labels."""
        digest, kind, *names = map(os.fsdecode, files)
        tables = self._tables(folder)
        if digest != tables.digest:
            raise UserError(
                f"the concepts of {folder} have changed since it was prepared; "
                f"prepare it again with: trust-exp data import {self.name} {folder}"
            )
        return tables.maps(kind, tuple(folder / name if name else None for name in names))

    def _tables(self, folder: Path) -> "Tables":
        return read_tables(folder, self.chosen(folder))


class BrodenPlusStreet(BrodenPlus):
    """The concepts of Broden+ that matter in streets (Losch 2024, Tab. 5.1): those printed, 56 parts and 11 materials.

    A file concepts.txt in the folder, with a concept a line (car/wheel, brick), replaces the list.
    """

    name = "broden_plus_street"
    folders: ClassVar = ("broden_plus", *BrodenPlus.folders)

    def chosen(self, folder: Path) -> tuple[str, ...]:
        return _chosen(folder / CHOICE)


def _chosen(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return STREET
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of concepts, one a line: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


class Sample(NamedTuple):
    """An image with the dataset it is of, the shape that its record gives, and its two files of labels."""

    kind: str
    image: Path
    shape: tuple[int, int]
    files: tuple[Path | None, Path | None]


class Tables(NamedTuple):
    """The meaning of the numbers in label maps.

    ``ade_object`` and the other three lead from the numbers in files to those of Broden+, int32 [numbers];
    ``pascal_part`` from the names in files. ``part`` is the concept of a pixel with an object and a part of Broden+,
    int16 [objects, parts]; ``own`` bool [objects, parts], which parts an object has, the background 0 among them.
    ``material`` is the concept of a material of Broden+, int16 [materials].
    """

    layers: tuple[Layer, ...]
    ade_object: np.ndarray
    ade_part: np.ndarray
    pascal_object: np.ndarray
    pascal_part: dict[str, int]
    surface: np.ndarray
    part: np.ndarray
    own: np.ndarray
    material: np.ndarray

    @property
    def digest(self) -> str:
        """Checksum of the concepts: a set that was prepared with others has other numbers."""
        return hashlib.sha256(repr(self.layers).encode()).hexdigest()[:8]

    def maps(self, kind: str, files: tuple[Path | None, ...]) -> np.ndarray:
        """The maps of parts and of materials, int16 [2, H, W].

        Raises:
            UserError: if a file is damaged, of another size, or has a number that means nothing.
        """
        first, second = files
        if first is None:
            raise ValueError(f"a sample of {kind} has no label map")
        if kind == SURFACES:
            materials = self._materials(first)
            return np.stack([unknown_map(materials.shape), materials])
        objects, parts = self._ade(first, second) if kind == ADE else self._pascal(first, second)
        concepts = self._parts(objects, parts)
        return np.stack([concepts, unknown_map(concepts.shape)])

    def _materials(self, path: Path) -> np.ndarray:
        numbers = _red(read_labels(path), path)
        materials = self.material[_looked_up(self.surface, numbers, path)]
        return np.where(numbers > 0, materials, np.int16(UNKNOWN))

    def _ade(self, objects: Path, parts: Path | None) -> tuple[np.ndarray, np.ndarray]:
        found = _looked_up(self.ade_object, _ade_numbers(objects), objects)
        if parts is None:
            return found, np.zeros_like(found)
        return found, _looked_up(self.ade_part, _ade_numbers(parts), parts, found.shape)

    def _pascal(self, objects: Path, parts: Path | None) -> tuple[np.ndarray, np.ndarray]:
        found = _looked_up(self.pascal_object, _context(objects), objects)
        marked = np.zeros_like(found)
        for name, mask in [] if parts is None else _pascal_parts(parts):
            short = re.sub(r"_\d+$", "", name)
            if short not in self.pascal_part:
                raise UserError(f"{parts} has the part {name!r}, which part2ind.m lacks")
            if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iuf" or mask.shape != found.shape:
                raise UserError(f"{parts} has a part {name!r} that differs in size from {objects}")
            marked[mask > 0] = self.pascal_part[short]
        return found, marked

    def _parts(self, objects: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Concepts of objects and parts in the numbers of Broden+, int32 [H, W] each."""
        pairs = objects * self.part.shape[1] + parts
        there = np.bincount(pairs.ravel(), minlength=self.part.size).reshape(self.part.shape) > 0
        marked = (there & self.own).sum(1) >= 2
        served = (self.part >= 0).any(1)  # the others are not used
        concepts = np.where((served & ~marked)[:, None], np.int16(UNKNOWN), self.part)
        return concepts.ravel()[pairs]


@cache
def _root(folder: Path) -> Path:
    """The folder with those of the datasets: broden_dataset."""
    for place in folders(folder):
        named = [place / kind for kind in (ADE, PASCAL, SURFACES) if (place / kind).is_dir()]
        if named and place.name != "meta_file":  # which has folders of these names too
            return place
    raise UserError(f"{folder} lacks the folder broden_dataset with {ADE}, {PASCAL} and {SURFACES}")


@cache
def _meta(folder: Path, name: str) -> Path:
    """A table or list of Broden+: its authors moved them about."""
    for place in (folder, _root(folder).parent, _root(folder)):
        for inner in ("meta_file", "meta_file/joint_dataset", "meta_file/ade20k", "meta_file/pascal", "data", "."):
            if (place / inner / name).is_file():
                return place / inner / name
    raise UserError(f"{folder} lacks {name}; the repository of Broden+ has it in meta_file")


# --- tables --------------------------------------------------------------------------------------------------------


@cache
def read_tables(folder: Path, chosen: tuple[str, ...] | None) -> Tables:
    """The tables of Broden+, for the concepts that are chosen; None: all of them.

    Raises:
        UserError: if one is missing or cannot be read, or there is no such concept.
    """
    slots, materials = _slots(folder), _materials(folder)
    names = [*slots.values(), *materials.values()]
    if not slots or not materials:
        raise UserError(f"{folder}: {TABLES[0] if slots else TABLES[1]} names no concept at all")
    for concept in names if chosen is None else chosen:
        if concept not in names:
            raise unknown(f"{folder}: the concept", concept, names)
    served = [[name for name in kind.values() if chosen is None or name in chosen] for kind in (slots, materials)]
    assigned = _assigned(_meta(folder, TABLES[2]))
    objects, parts = (
        1 + max(*assigned[ADE, kind].values(), *assigned[PASCAL, kind].values(), *(slot[axis] for slot in slots))
        for axis, kind in enumerate(("object", "part"))
    )
    part, own = np.full((objects, parts), NOTHING, np.int16), np.zeros((objects, parts), bool)
    part[0] = UNKNOWN
    for (of_object, number), name in slots.items():
        own[of_object, [0, number]] = True
        part[of_object, number] = _place(name, served[0])
    material = np.full(1 + max(materials), NOTHING, np.int16)
    for number, name in materials.items():
        material[number] = _place(name, served[1])
    return Tables(
        (Layer("part", tuple(served[0])), Layer("material", tuple(served[1]))),
        _table(assigned[ADE, "object"]),
        _table(assigned[ADE, "part"]),
        _table(assigned[PASCAL, "object"]),
        _part_names(folder),
        _table(assigned["os", "material"]),
        part,
        own,
        material,
    )


def _slots(folder: Path) -> dict[tuple[int, int], str]:
    """The concept of each object and part in the numbers of Broden+."""
    path = _meta(folder, TABLES[1])
    columns = ("object_label", "object_name", "part_labels", "part_names")
    return {
        (_number(row["object_label"], path), _number(number, path)): f"{row['object_name']}/{name}"
        for row in read_csv(path, columns)
        for number, name in zip(row["part_labels"].split(";"), row["part_names"].split(";"), strict=False)
        if number != "0"
    }


def _materials(folder: Path) -> dict[int, str]:
    path = _meta(folder, TABLES[0])
    named = {_number(row["label"], path): row["name"] for row in read_csv(path, ("label", "name"))}
    return {number: name for number, name in named.items() if number}


def _assigned(path: Path) -> dict[tuple[str, str], dict[int, int]]:
    """For each dataset and category the number in Broden+ of each number in its files."""
    found: dict[tuple[str, str], dict[int, int]] = {
        key: {0: 0}
        for key in ((ADE, "object"), (ADE, "part"), (PASCAL, "object"), (PASCAL, "part"), ("os", "material"))
    }
    for row in read_csv(path, ("dataset", "category", "raw_label", "raw_name", "broden_label")):
        if (key := (row["dataset"], row["category"])) in found:
            found[key][_number(row["raw_label"], path)] = _number(row["broden_label"], path)
    return found


def _part_names(folder: Path) -> dict[str, int]:
    """The part in Broden+ of each name in Pascal's files, such as lfuleg; the comments of part2ind.m explain them."""
    path = _meta(folder, TABLES[2])
    numbers = {
        row["raw_name"]: _number(row["broden_label"], path)
        for row in read_csv(path, ("dataset", "category", "raw_name", "broden_label"))
        if (row["dataset"], row["category"]) == (PASCAL, "part")
    }
    if not (_root(folder) / PASCAL).is_dir():
        return {}
    line = re.compile(r"pimap\{\d+\}\((?:sprintf\()?'(\w+?)(?:_%d)?'.*?;[ \t]*(?:%\s*(\w[\w ]*))?")
    listed = line.findall(_text(_pascal_file(folder, "part2ind.m")))
    return {short: numbers.get(_plain(short if "multiple" in long else long or short), 0) for short, long in listed}


def _plain(name: str) -> str:
    """A part without its side: left front hoof is hoof, as Broden+ has it."""
    spelled = {"lfho": "hoof", "rfho": "hoof", "lbho": "hoof", "rbho": "hoof", "fwheel": "wheel", "bwheel": "wheel"}
    sides = ("left", "right", "front", "back", "upper", "lower", "side")
    words = re.sub(
        rf"^({'|'.join(sides)})(?=side|mirror)", r"\1 ", re.sub("^roofside", "roof side", spelled.get(name, name))
    )
    return " ".join(word for word in words.split() if word not in sides)


def _place(name: str, served: list[str]) -> int:
    return served.index(name) if name in served else NOTHING


def _table(assigned: dict[int, int]) -> np.ndarray:
    table = np.zeros(1 + max(assigned), np.int32)
    table[list(assigned)] = list(assigned.values())
    return table


def _number(text: str, path: Path) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise UserError(f"{path} has {text!r} where a number must be")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


# --- lists of images -----------------------------------------------------------------------------------------------


def _samples(folder: Path, names: tuple[str, ...]) -> list[Sample]:
    """The images of a part, from those of its lists that there are."""
    found = []
    for name in names:
        try:
            path = _meta(folder, name)
        except UserError:
            continue
        for line, text in enumerate(_text(path).splitlines(), 1):
            if text.strip():
                found.append(_sample(folder, text, f"{path} line {line}"))
    return found


def _sample(folder: Path, text: str, where: str) -> Sample:
    try:
        record = parse_json(text)
        kind, at, shape = record["dataset"], record["file_index"], (record["height"], record["width"])
        if not isinstance(kind, str) or any(type(length) is not int or length < 1 for length in shape):
            raise TypeError("of another type")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is not a record with dataset, file_index, height and width") from error
    indexes = {ADE: _ade_index, PASCAL: _pascal_index, "os": _surface_index}
    if kind not in indexes:
        raise unknown(f"{where}: the dataset", kind, indexes)
    index = indexes[kind](folder)
    if type(at) is not int or not 0 <= at < len(index):
        raise UserError(f"{where} names image {quoted(at)}; there are 0 to {len(index) - 1} of {kind}")
    image, *files = index[at]
    return Sample(SURFACES if kind == "os" else kind, image, shape, (files[0], files[1]))


def _check_shape(sample: Sample, size: tuple[int, int]) -> None:
    """Images may have been resized, but a list that counts other files than these gives other shapes."""
    (height, width), (listed_height, listed_width) = size, sample.shape
    if abs(height * listed_width / (width * listed_height) - 1) > 0.03:
        raise UserError(
            f"{sample.image} has {width}x{height} pixels and in its list {listed_width}x{listed_height}: "
            "the list counts other files than there are here"
        )


Files = tuple[Path, Path, Path | None]


@cache
def _ade_index(folder: Path) -> list[Files]:
    name = "index_ade20k.mat"
    path = next((path for path in files_below(_root(folder) / ADE) if path.name == name), None) or _meta(folder, name)
    try:
        (index,) = read_mat(path, "index")["index"].ravel()
        pairs = list(zip(index["filename"].ravel().tolist(), index["folder"].ravel().tolist(), strict=True))
        if not all(isinstance(text, str) for pair in pairs for text in pair):
            raise ValueError("a name is none")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).replace(f"{path} ", "it ")
        raise UserError(f"{path} is not the index of ADE20K: {reason}") from error
    found = []
    for name, place in pairs:
        image = _root(folder) / ADE / place / name
        parts = image.with_name(f"{image.stem}_parts_1.png")
        found.append((image, image.with_name(f"{image.stem}_seg.png"), parts if parts.is_file() else None))
    return found


@cache
def _pascal_index(folder: Path) -> list[Files]:
    parts = files_in(_pascal_file(folder, "part2ind.m").parent / "Annotations_Part", (".mat",))
    base, name = _root(folder) / PASCAL, "JPEGImages"
    images = next((path.parent for path in files_below(base) if path.parent.name == name), base / name)
    return [(images / f"{path.stem}.jpg", base / "context" / "trainval" / path.name, path) for path in parts]


@cache
def _surface_index(folder: Path) -> list[Files]:
    base = _root(folder) / SURFACES
    numbers = [row["photo_id"] for row in read_csv(base / "photos.csv", ("photo_id",))]
    return [(base / "photos" / f"{number}.jpg", base / "photos-labels" / f"{number}.png", None) for number in numbers]


def _pascal_file(folder: Path, name: str) -> Path:
    base = _root(folder) / PASCAL
    for path in (base / "part" / name, base / name):
        if path.is_file():
            return path
    raise UserError(f"{base} lacks part/{name}; Pascal-Part comes with it")


# --- files of labels -----------------------------------------------------------------------------------------------


def _looked_up(table: np.ndarray, numbers: np.ndarray, path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    if numbers.max() >= len(table):
        raise UserError(f"{path} has the label {numbers.max()}; labels are 0 to {len(table) - 1}")
    if shape is not None and numbers.shape != shape:
        raise UserError(f"{path} differs in size from the map of objects beside it")
    return table[numbers]


def _red(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.ndim != 3:
        raise UserError(f"{path} must be a picture in colours: a label is in its red")
    return labels[..., 0]


def _ade_numbers(path: Path) -> np.ndarray:
    """Labels of ADE20K: tenths of red times 256, plus green."""
    labels = read_labels(path)
    return _red(labels, path).astype(np.int32) // 10 * 256 + labels[..., 1]


def _context(path: Path) -> np.ndarray:
    labels = np.asarray(read_mat(path, "LabelMap")["LabelMap"])
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise UserError(f"{path} must hold whole numbers [H, W] as LabelMap; it has {labels.dtype} {labels.shape}")
    return labels.astype(np.int32)


def _pascal_parts(path: Path) -> list[tuple[str, np.ndarray]]:
    """Name and mask of each part in a file of Pascal-Part."""
    try:
        objects = read_mat(path, "anno")["anno"].ravel()[0]["objects"]
        return [(str(part["part_name"]), part["mask"]) for found in objects.ravel() for part in found["parts"].ravel()]
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).replace(f"{path} ", "it ")
        raise UserError(f"{path} is not an annotation of Pascal-Part: {reason}") from error


def _relative(path: Path | None, folder: Path) -> str | Path:
    return path.relative_to(folder) if path else ""
