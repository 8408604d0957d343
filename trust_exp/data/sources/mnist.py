"""MNIST and Fashion-MNIST, which come as four IDX files. No torch."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.fetch import Remote
from trust_exp.data.readers.idx import idx_content, parse_idx
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.listing import files_below
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
STEMS = tuple(stem for pair in FILES.values() for stem in pair)
CLASSES = 10


def _remotes(url: str, *files: tuple[str, int]) -> tuple[Remote, ...]:
    """The four .gz files in the order of STEMS, with their MD5, as torchvision lists it, and their size."""
    return tuple(Remote(f"{url}{stem}.gz", f"md5:{md5}", size) for stem, (md5, size) in zip(STEMS, files, strict=True))


class IdxSource(Source):
    """A set of four IDX files, plain or .gz. Other numbers of images than the published are accepted."""

    classes: ClassVar[tuple[str, ...]]
    md5: ClassVar[tuple[str, ...]]  # of the four files, unzipped, in the order of STEMS

    images: ClassVar = {"train": 60_000, "test": 10_000}
    megabytes = 55
    layout = "the four IDX files"

    def check(self, folder: Path) -> None:
        find_idx(folder)

    def read(self, folder: Path, into: Writer) -> None:
        paths = find_idx(folder)
        into.files += paths.values()
        contents = {stem: idx_content(path) for stem, path in paths.items()}
        md5 = tuple(hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents.values())
        self._check_not_another(paths, md5)
        into.info = DatasetInfo(self.name, self.classes, (1, 28, 28), (0.0, 1.0))
        checksums = {stem: hashlib.sha256(content).hexdigest() for stem, content in contents.items()}
        into.source = {"sha256": checksums, "verified": md5 == self.md5}
        for part, (image_stem, label_stem) in FILES.items():
            images, labels = (parse_idx(contents[stem], paths[stem]) for stem in (image_stem, label_stem))
            _check_pair(images, labels, paths[image_stem], paths[label_stem])
            into.put(part, images=images[:, None], labels=labels)

    def _check_not_another(self, paths: dict[str, Path], md5: tuple[str, ...]) -> None:
        for other in IdxSource.__subclasses__():
            for path, value, published in zip(paths.values(), md5, other.md5, strict=True):
                if other.name != self.name and value == published:
                    raise UserError(f"{path} belongs to {other.name}, not to {self.name}")


class Mnist(IdxSource):
    """Handwritten digits of 28x28 pixels (LeCun et al. 1998)."""

    name = "mnist"
    licence = "CC BY-SA 3.0"
    homepage = "http://yann.lecun.com/exdb/mnist/"
    folders = ("MNIST",)
    classes = tuple("0123456789")
    md5 = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
    remotes = _remotes(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    )


class FashionMnist(IdxSource):
    """Articles of clothing, in the form of MNIST (Xiao, Rasul, Vollgraf 2017)."""

    name = "fashion_mnist"
    licence = "MIT"
    homepage = "https://github.com/zalandoresearch/fashion-mnist"
    folders = ("FashionMNIST",)
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    # Its owners publish the checksums of the .gz files; these are of what is in them.
    md5 = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
    remotes = _remotes(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
        ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    )


def find_idx(folder: str | Path) -> dict[str, Path]:
    """The four files of a set anywhere under ``folder``, plain or .gz, ``-idx3`` or ``.idx3``, by their name in STEMS.

    Raises:
        UserError: if one is missing, or if there are several and no folder holds all four.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    files = files_below(folder)
    found = {stem: _spellings(files, stem) for stem in STEMS}
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


def _spellings(files: list[Path], stem: str) -> list[Path]:
    names = {spelling + end for spelling in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")}
    return [path for path in files if path.name in names]


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
