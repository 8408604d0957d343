"""A user's own images in an .npz file, under the names that Keras and MedMNIST use. No torch."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.numpy_files import check_keys, load_npz
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import PARTS
from trust_exp.data.sources.listing import files_in
from trust_exp.data.sources.pixels import described, read_labels
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

SPELLINGS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))  # of Keras and of MedMNIST
# In small letters the names of images: their part, and the name of their labels.
NAMES = {x.format(name): (part, y.format(name)) for name, part in PARTS.items() for x, y in SPELLINGS}
NAMES["images"] = "train", "labels"
MOST_CLASSES = 2**15  # labels are kept as int16


class Npz(Source):
    """One file of images of a class: ``x_train``, ``y_train``, ... or ``train_images``, ... or ``images``, ``labels``.

    Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3, labels whole numbers [N] or [N, 1];
    ``classes`` may name the classes 0, 1, ..., and ``split`` tell the part of each of ``images``: train, val or test.
    Without ``classes`` the classes are the labels that occur, each named by its number. Where train is the only part,
    every fifth image of each class is for testing. Capitals in names do not count.
    """

    name = "npz"
    images: ClassVar = {}
    megabytes = 0
    licence = "the user's"
    homepage = "your own arrays"
    reading = 2  # classes are the labels that occur
    layout = "an .npz file with images and labels, or x_train, y_train, x_test and y_test"

    def at(self, path: str | Path | None) -> Source:
        """A source with a name of the file's own, so that another file, or a changed one, is another data set."""
        if path is None:
            raise UserError(f"dataset={self.name} needs dataset.path=<file>: {self.layout}")
        file = npz_file(Path(path))
        facts = file.stat()
        key = repr((str(file.resolve()), facts.st_size, facts.st_mtime_ns))
        source = Npz()
        vars(source)["name"] = f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        return source

    def check(self, folder: Path) -> None:
        npz_file(folder)

    def read(self, folder: Path, into: Writer) -> None:
        path = npz_file(folder)
        into.files.append(path)
        arrays = load_npz(path)
        images, labels = {}, {}
        keys = part_keys(arrays, path)
        used = {"classes", "split", *(key for pair in keys.values() for key in pair)}
        for key in arrays:
            if key not in used:
                into.remarks.add("arrays", key)
        for part, (x, y) in keys.items():
            images[part], labels[part] = channels_first(arrays[x], f"{path}: {x}"), flat(arrays[y], f"{path}: {y}")
        shapes = {array.shape[1:] for array in images.values()}
        if len(shapes) > 1:
            given = " and ".join(str(list(shape)) for shape in sorted(shapes))
            raise UserError(f"{path} has images of {given} in its parts; they must be of one size")
        if "classes" in arrays:
            classes = class_names(arrays["classes"], labels, path)
        else:
            occurring = np.unique(np.concatenate(list(labels.values())))
            classes = tuple(map(str, occurring.tolist()))
            labels = {part: np.searchsorted(occurring, own) for part, own in labels.items()}
        into.info = DatasetInfo("npz", classes, shapes.pop(), (0.0, 1.0))
        labels = {part: read_labels(labels[part], len(images[part]), len(classes), path) for part in images}
        if len(images) > 1:
            rows: dict[str, tuple[str, np.ndarray | slice]] = {part: (part, slice(None)) for part in images}
        else:
            only = next(iter(images))
            rows = {part: (only, chosen) for part, chosen in split(arrays.get("split"), labels[only], path).items()}
        for part, (given_part, chosen) in rows.items():
            into.put(part, images=images[given_part][chosen], labels=labels[given_part][chosen])
        if "test" in rows:
            tested = labels[rows["test"][0]][rows["test"][1]]
            for number in sorted({*range(len(classes))} - {*tested.tolist()}):
                into.remarks.add("untested", classes[number])
        else:
            others = " or ".join(f"dataset.test=[{part}]" for part in rows)
            into.lacking["test"] = f"{path} has no images to test on; name some x_test, or test on others: {others}"


def npz_file(path: Path) -> Path:
    """``path`` if it is an .npz file, or the one in that folder.

    Raises:
        UserError: if there is none, or several.
    """
    found = files_in(path, (".npz",)) if path.is_dir() else [path]
    if not path.exists() or len(found) != 1 or found[0].suffix.lower() != ".npz":
        what = f"holds {len(found)} .npz files" if path.is_dir() else "is not an .npz file"
        raise UserError(f"{path} {what if path.exists() else 'does not exist'}; give the .npz file as dataset.path")
    return found[0]


def part_keys(arrays: dict[str, np.ndarray], path: Path) -> dict[str, tuple[str, str]]:
    """The names of images and labels of each part; images without parts are one part called train.

    Raises:
        UserError: if there are none, images without labels, or a part twice.
    """
    found: dict[str, tuple[str, str]] = {}
    for key in arrays:
        part, labels = NAMES.get(key.lower(), ("", ""))
        own = key, next((other for other in arrays if other.lower() == labels), labels)
        if part and found.setdefault(part, own) != own:
            raise UserError(f"{path} holds {found[part][0]} and {key}, two names of the images of one part; keep one")
    if "train" not in found:
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; name the arrays x_train, y_train, x_test and y_test, "
            "or train_images, train_labels, ..., or images and labels"
        )
    if "split" in arrays and len(found) > 1:
        others = ", ".join(x for part, (x, _) in found.items() if part != "train")
        raise UserError(f"{path} tells the parts of images twice: by split, and by {others}; keep one of them")
    check_keys(path, [key for pair in found.values() for key in pair], arrays)
    return found


def channels_first(images: np.ndarray, what: str) -> np.ndarray:
    """Images as uint8 [N, C, H, W].

    Raises:
        UserError: if they are of another type, or their shape does not tell where the channels are.
    """
    allowed = "images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"
    if images.dtype.kind == "f":
        raise UserError(
            f"{what} is {described(images)}; {allowed}: if they are in [0, 1], save (255 * x).round().astype(np.uint8)"
        )
    if images.dtype != np.uint8 or not images.size or images.ndim not in (3, 4):
        raise UserError(f"{what} is {described(images)}; {allowed}")
    if images.ndim == 3:
        return images[:, None]
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first and last:
        raise UserError(f"{what} is {described(images)}, so its channels may come first or last; pad the images")
    if not first and not last:
        raise UserError(f"{what} is {described(images)}; {allowed}")
    return images if first else images.transpose(0, 3, 1, 2)


def flat(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels as whole numbers [N].

    Raises:
        UserError: if they are anything else, or negative.
    """
    if labels.dtype.kind not in "iu" or labels.shape[1:] not in ((), (1,)) or not labels.size:
        raise UserError(
            f"{what} is {described(labels)}; labels are whole numbers [N] or [N, 1]: of one-hot ones .argmax(1)"
        )
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{what} has the label {wrong}; labels are 0 to {MOST_CLASSES - 1}")
    return labels.reshape(-1)


def class_names(names: np.ndarray, labels: Mapping[str, np.ndarray], path: Path) -> tuple[str, ...]:
    """The names in the file.

    Raises:
        UserError: if they are not different strings, or the labels count them from 1.
    """
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise UserError(f"{path}: classes is {described(names)}; it must be one name for each class, all different")
    least, most = min(own.min() for own in labels.values()), max(own.max() for own in labels.values())
    if least > 0 and most == len(names):
        raise UserError(
            f"{path} has the labels {least} to {most} and {len(names)} names of classes, which count from 0: "
            "subtract 1 from the labels"
        )
    return tuple(names.tolist())


def split(given: np.ndarray | None, labels: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """The rows of each part, as ``given`` (str [N]) says, or every fifth of each class for testing.

    Raises:
        UserError: if it says something else, or there are too few.
    """
    every_fifth = given is None
    if given is None:
        test = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            test[np.flatnonzero(labels == label)[2::5]] = True
        given = np.where(test, "test", "train")
    parts = {part: np.flatnonzero(given == part) for part in ("train", "val", "test") if part in given}
    if given.shape != labels.shape or sum(map(len, parts.values())) < len(labels):
        raise UserError(f"{path}: split is {described(given)}; it must be train, val or test for each of the images")
    if missing := {"train", "test"} - parts.keys():
        part = missing.pop()
        why = "of each class it is the third, the eighth, ..., and none has three; " if every_fifth else ""
        raise UserError(f"{path} has no images for {part}: {why}add some, as x_{part} and y_{part} or by split")
    return parts
