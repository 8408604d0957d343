"""CIFAR-10 and CIFAR-100 in every form that they come in. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.fetch import Remote
from trust_exp.data.readers.files import content
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import folders, holding, number, unpacked
from trust_exp.data.sources.listing import files_in, subfolders
from trust_exp.data.sources.pixels import ROW, SIDE, decode, from_rows, load_batch, read_labels
from trust_exp.data.store import Writer, file_digest
from trust_exp.data.super_classes import COARSE, FINE, SUPER_CLASSES
from trust_exp.errors import UserError

PARTS = ("train", "test")
COARSE_OF = np.array(
    [next(i for i, found in enumerate(SUPER_CLASSES.values()) if name in found.fine) for name in FINE], np.uint8
)
Form = Literal["pickles", "binary", "archive", "folders"]
BATCHES: tuple[Form, ...] = ("pickles", "binary")


class Cifar(Source):
    """Images of 32x32 pixels: pickled or binary batches, their archive, or PNG files in a folder for each class.

    Other numbers of images than the published are accepted.
    """

    classes: ClassVar[tuple[str, ...]]
    pickles: ClassVar[Mapping[str, tuple[str, ...]]]  # files of each part, in order
    archives: ClassVar[tuple[str, ...]]
    published: ClassVar[Mapping[str, str]]  # MD5 of pickled batches and of archives
    keys: ClassVar[tuple[str, ...]] = ("labels",)  # in pickled batches

    images: ClassVar = {"train": 50_000, "test": 10_000}
    megabytes = 185
    licence = "none stated; its owner asks for a citation"
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"

    def check(self, folder: Path) -> None:
        self._find(folder)

    def read(self, folder: Path, into: Writer) -> None:
        form, place = self._find(folder)
        if form == "archive":
            with unpacked(place, into) as unpacked_folder:
                self.read(unpacked_folder, into)
            self._record(into, [place])
            return
        into.info = DatasetInfo(self.name, self.classes, (3, SIDE, SIDE), (0.0, 1.0))
        for part in PARTS:
            if form == "folders":
                self._read_folders(place / part, part, into)
            else:
                files = [place / name for name in self._files(form)[part]]
                read = self._pickled if form == "pickles" else self._binary
                batches = [read(path) for path in files]
                self._put(into, part, *(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
        if form != "folders":
            self._record(into, [place / name for names in self._files(form).values() for name in names])

    def _files(self, form: Form) -> dict[str, tuple[str, ...]]:
        end = ".bin" if form == "binary" else ""
        return {part: tuple(name + end for name in names) for part, names in self.pickles.items()}

    def _find(self, folder: Path) -> tuple[Form, Path]:
        """In which form the set lies in ``folder``, and where; names only."""
        for form in BATCHES:
            if place := holding(folder, *(name for names in self._files(form).values() for name in names)):
                return form, place
        there = list(folders(folder))
        for archive in (place / name for name in self.archives for place in there):
            if archive.is_file():
                return "archive", archive
        for place in there:
            if any((place / "train" / name).is_dir() for name in self.classes):
                self._check_folders(place)
                return "folders", place
        raise UserError(f"{folder} holds no {self.name}: there must be {self.layout}")

    def _check_folders(self, place: Path) -> None:
        for part in PARTS:
            found = {child.name for child in subfolders(place / part)} if (place / part).is_dir() else set()
            if missing := [name for name in self.classes if name not in found]:
                raise UserError(f"{place} lacks the folders {', '.join(f'{part}/{name}' for name in missing)}")
            if others := sorted(found - set(self.classes)):
                raise UserError(
                    f"{place / part / others[0]} is not a class of {self.name}; remove it from {place / part}"
                )

    def _pickled(self, path: Path) -> tuple[np.ndarray, ...]:
        batch = load_batch(path, "data", *self.keys)
        return self._checked(batch["data"], [batch[key] for key in self.keys], path)

    def _binary(self, path: Path) -> tuple[np.ndarray, ...]:
        stored, kinds = np.frombuffer(content(path), np.uint8), len(self.keys)
        if len(stored) % (kinds + ROW):
            raise UserError(f"{path} is truncated: it has {len(stored)} bytes, and each image takes {kinds + ROW}")
        rows = stored.reshape(-1, kinds + ROW)
        labels = rows[:, :kinds].T[::-1]  # the fine one comes last
        return self._checked(rows[:, kinds:], list(labels), path)

    def _checked(self, rows: np.ndarray, labels: list[Any], path: Path) -> tuple[np.ndarray, ...]:
        """Images and labels of a batch; ``labels`` in the order of ``keys``."""
        images = from_rows(rows, path)
        return images, read_labels(labels[0], len(images), len(self.classes), path)

    def _read_folders(self, folder: Path, part: str, into: Writer) -> None:
        found = [
            (number(path), label, path)
            for label, name in enumerate(self.classes)
            for path in files_in(folder / name, (".png",))
        ]
        if not found:
            raise UserError(f"{folder} holds no .png file; the images of {self.name} must be stored without loss")
        found.sort()
        into.files += [path for _, _, path in found]
        labels = np.array([label for _, label, _ in found], np.uint8)
        images = np.empty((len(found), 3, SIDE, SIDE), np.uint8)
        into.count_images(decode([path for _, _, path in found], images))
        self._put(into, part, images, labels)

    def _put(self, into: Writer, part: str, images: np.ndarray, labels: np.ndarray) -> None:
        into.put(part, images=images, labels=labels)

    def _record(self, into: Writer, files: list[Path]) -> None:
        """Keep the checksums of the files, and whether they are the published ones."""
        into.files = files
        found = {path.name: file_digest(path, "md5") for path in files}
        into.source = {
            "md5": found,
            "verified": all(self.published.get(name) == value for name, value in found.items()),
        }


class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky 2009)."""

    name = "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    pickles: ClassVar = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
    layout = (
        "data_batch_1 to 5 and test_batch, pickled or .bin, cifar-10-python.tar.gz or cifar-10-binary.tar.gz, "
        "or train/<class>/<number>.png and test/<class>/<number>.png"
    )
    folders = ("cifar-10-batches-py", "cifar-10-batches-bin", "CIFAR10")
    archives = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
    # As torchvision lists them; that of the binary archive is from the homepage.
    published: ClassVar = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    }
    remotes = (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            170_498_071,
        ),
    )


class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky 2009). Beside ``labels`` it has ``coarse`` (uint8 [N]), the super-classes."""

    name = "cifar100"
    classes = FINE
    pickles: ClassVar = {"train": ("train",), "test": ("test",)}
    keys = ("fine_labels", "coarse_labels")
    layout = (
        "train and test, pickled or .bin, cifar-100-python.tar.gz or cifar-100-binary.tar.gz, "
        "or train/<class>/<number>.png and test/<class>/<number>.png"
    )
    folders = ("cifar-100-python", "cifar-100-binary", "CIFAR100")
    archives = ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")
    # As torchvision lists them; that of the binary archive is from the homepage.
    published: ClassVar = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    }
    remotes = (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            169_001_437,
        ),
    )

    def _checked(self, rows: np.ndarray, labels: list[Any], path: Path) -> tuple[np.ndarray, ...]:
        images, fine = super()._checked(rows, labels, path)
        coarse = read_labels(labels[1], len(images), len(COARSE), path)
        if len(wrong := np.flatnonzero(coarse != COARSE_OF[fine])):
            first = wrong[0]
            raise UserError(
                f"{path} puts a {FINE[fine[first]]} into {COARSE[coarse[first]]}, which is wrong; get the file again"
            )
        return images, fine

    def _put(self, into: Writer, part: str, images: np.ndarray, labels: np.ndarray) -> None:
        into.put(part, images=images, labels=labels, coarse=COARSE_OF[labels])
