"""Down-sampled ImageNet at 32x32 pixels, which comes as batches, pickled or .npz. No torch."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.numpy_files import load_npz
from trust_exp.data.readers.files import lines
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import folders
from trust_exp.data.sources.pixels import SIDE, distinct, from_rows, load_batch, read_labels
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

CLASSES = 1000
BATCHES = {"train": tuple(f"train_data_batch_{i}" for i in range(1, 11)), "val": ("val_data",)}
NAMES = "map_clsloc.txt"


class ImageNet32(Source):
    """ImageNet at 32x32 pixels (Chrabaszcz, Loshchilov, Hutter 2017).

    Labels are its own, 1 to 1000, less one: their order is that of map_clsloc.txt and not of the sorted wnids. Classes
    have names if that file lies beside a batch, else numbers. No checksums of the batches are published.
    """

    name = "imagenet32"
    images: ClassVar = {"train": 1_281_167, "val": 50_000}
    megabytes = 4092
    licence = "terms of ImageNet: research that is not commercial"
    homepage = "https://image-net.org/download-images.php"
    layout = "train_data_batch_1 to 10 and val_data, pickled or .npz"
    folders = ("Imagenet32", "ImageNet32")

    def check(self, folder: Path) -> None:
        find_batches(folder)

    def read(self, folder: Path, into: Writer) -> None:
        found = find_batches(folder)
        into.info = DatasetInfo(self.name, class_names(found["val"]), (3, SIDE, SIDE), (0.0, 1.0))
        for part, paths in found.items():
            into.files += paths
            labels = [read_batch(path)[1] for path in paths]
            into.put(part, labels=np.concatenate(labels))
            images = into.array(part, "images", (sum(map(len, labels)), 3, SIDE, SIDE), np.uint8)
            start = 0
            for path, own in zip(paths, labels, strict=True):  # once more, as all of them are too much for the memory
                images[start : start + len(own)] = read_batch(path)[0]
                start += len(own)


def find_batches(folder: Path) -> dict[str, list[Path]]:
    """The files of each part in order, in one folder or several, as train and val are two archives.

    Raises:
        UserError: if one is missing.
    """
    there = list(folders(folder))
    names = [name for names in BATCHES.values() for name in names]
    spellings = {name: [place / (name + end) for place in there for end in ("", ".npz")] for name in names}
    paths = {name: next((path for path in spelt if path.is_file()), None) for name, spelt in spellings.items()}
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(paths):
        raise UserError(f"{folder} holds no imagenet32: there must be {ImageNet32.layout}")
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)} (pickled or .npz); imagenet32 is imported as a whole")
    return {part: [path for name in names if (path := paths[name])] for part, names in BATCHES.items()}


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int16 [N], counted from 0.

    Raises:
        UserError: if the file is damaged or of another form.
    """
    batch = load_npz(path, "data", "labels") if path.suffix == ".npz" else load_batch(path, "data", "labels")
    images = from_rows(batch["data"], path)
    return images, read_labels(batch["labels"], len(images), CLASSES, path, first=1)


def class_names(batches: list[Path]) -> tuple[str, ...]:
    """Names in the order of labels, from map_clsloc.txt beside a batch or above it; without it numbers from 0.

    Raises:
        UserError: if that file does not name each class once.
    """
    beside = [folder / NAMES for batch in batches for folder in (batch.parent, batch.parent.parent)]
    path = next((path for path in beside if path.is_file()), None)
    if path is None:
        return tuple(map(str, range(CLASSES)))
    rows = [line.split() for line in lines(path)]
    numbers = [row[1] for row in rows if len(row) == 3]
    if sorted(numbers) != sorted(str(number) for number in range(1, CLASSES + 1)) or len(numbers) < len(rows):
        raise UserError(f"{path} should have a line such as 'n02119789 1 kit_fox' for each label from 1 to {CLASSES}")
    rows.sort(key=lambda row: int(row[1]))
    return distinct([row[2].replace("_", " ") for row in rows], [row[0] for row in rows])
