"""The IDX format of MNIST, and the sets that come as four IDX files. No torch."""

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trust_exp.data import store
from trust_exp.errors import UserError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
STEMS = tuple(stem for pair in FILES.values() for stem in pair)
CLASSES = 10
MAX_DIMENSIONS = 32  # numpy's


@dataclass(frozen=True)
class IdxSet:
    """A published set: torchvision's folder for it, and the MD5 of its four files, unzipped, in the order of STEMS."""

    folder: str
    md5: tuple[str, str, str, str]


# MNIST's are known of old. Fashion-MNIST publishes those of the .gz files; these are of what is in them.
SETS = {
    "mnist": IdxSet(
        "MNIST",
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ),
    "fashion_mnist": IdxSet(
        "FashionMNIST",
        (
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
}


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, plain or gzip-compressed (told by its first bytes), in the file's shape and type.

    Raises:
        UserError: one sentence that names the file, if anything in it is not as it should be.

    Source: LeCun, Cortes, Burges, "The MNIST database", file formats.
    """
    return parse_idx(_content(Path(path)), path)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a corrupt gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def parse_idx(content: bytes, path: str | Path) -> np.ndarray:
    """As ``read_idx``, from the file's unzipped content; ``path`` is for messages."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES or not 1 <= content[3] <= MAX_DIMENSIONS:
        raise UserError(f"{path} is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, dimensions = np.dtype(DTYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"{path} is truncated: it ends inside its header")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        state = "truncated" if len(content) - start < expected else "too long"
        raise UserError(
            f"{path} is {state}: its header announces {expected} bytes of data and {len(content) - start} follow"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def find_idx(folder: str | Path) -> dict[str, Path]:
    """The four files of a set anywhere under ``folder``, plain or .gz, ``-idx3`` or ``.idx3``, by their name in STEMS.

    Raises:
        UserError: if one is missing, or if there are several and no folder holds all four.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found = {stem: _spellings(folder, stem) for stem in STEMS}
    for directory in sorted({path.parent for path in found[STEMS[0]]}, key=lambda path: (len(path.parts), path)):
        here = {stem: [path for path in paths if path.parent == directory] for stem, paths in found.items()}
        if all(here.values()):
            return {stem: paths[0] for stem, paths in here.items()}
    for stem, paths in found.items():
        if not paths:
            raise UserError(f"{folder} lacks {stem} (plain or .gz), one of the four files {', '.join(STEMS)}")
        if len(paths) > 1:
            raise UserError(
                f"{folder} holds {stem} more than once ({paths[0]}, {paths[1]}): give a folder that holds one"
            )
    return {stem: paths[0] for stem, paths in found.items()}


def _spellings(folder: Path, stem: str) -> list[Path]:
    names = {spelling + end for spelling in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")}
    return sorted(path for path in folder.rglob(f"{stem.split('-idx')[0]}*") if path.name in names and path.is_file())


def raw_folder(name: str, root: str | Path) -> Path | None:
    """The folder of the set's four files under ``root``, named as the set or as torchvision names it; None without."""
    for folder in (Path(root) / name, Path(root) / SETS[name].folder):
        try:
            find_idx(folder)
        except UserError:
            continue
        return folder
    return None


def import_idx(name: str, folder: str | Path, root: str | Path) -> Path:
    """Check the four IDX files under ``folder`` and prepare them as ``<root>/prepared/<name>``, which is returned.

    The manifest keeps the SHA-256 of their content and ``verified``: whether it is what was published. Other numbers
    of images than the published are accepted.

    Raises:
        UserError: if a file is missing or wrong, or belongs to another known set.
    """
    paths = find_idx(folder)
    contents = {stem: _content(path) for stem, path in paths.items()}
    md5 = tuple(hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents.values())
    _check_not_another(name, paths, md5)
    arrays = {stem: parse_idx(content, paths[stem]) for stem, content in contents.items()}
    for images, labels in FILES.values():
        _check_pair(arrays[images], arrays[labels], paths[images], paths[labels])
    splits = {split: (arrays[images][:, None], arrays[labels]) for split, (images, labels) in FILES.items()}
    checksums = {stem: hashlib.sha256(content).hexdigest() for stem, content in contents.items()}
    return store.write(root, name, splits, {"sha256": checksums, "verified": md5 == SETS[name].md5})


def _check_not_another(name: str, paths: dict[str, Path], md5: tuple[str, ...]) -> None:
    for other, known in SETS.items():
        for path, value, published in zip(paths.values(), md5, known.md5, strict=True):
            if other != name and value == published:
                raise UserError(f"{path} belongs to {other}, not to {name}")


def _check_pair(images: np.ndarray, labels: np.ndarray, image_path: Path, label_path: Path) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise UserError(f"{image_path} holds {images.dtype} {list(images.shape)}; images are uint8 [N, 28, 28]")
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise UserError(f"{label_path} holds {labels.dtype} {list(labels.shape)}; labels are uint8 [N]")
    if len(images) != len(labels):
        raise UserError(f"{label_path} has {len(labels)} labels, but {image_path} has {len(images)} images")
    if len(labels) == 0:
        raise UserError(f"{label_path} has no labels at all")
    if labels.max() >= CLASSES:
        raise UserError(f"{label_path} has the label {labels.max()}; labels are 0 to {CLASSES - 1}")
