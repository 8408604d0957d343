"""ImageNet, the 1000 classes of ILSVRC 2012, in the layouts that people have. No torch."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from trust_exp.data.readers.files import lines
from trust_exp.data.readers.images import ENDINGS
from trust_exp.data.readers.matlab import read_mat
from trust_exp.data.remarks import Remarks
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.folder import Classes, list_classes, write_classes
from trust_exp.data.sources.layout import folders
from trust_exp.data.sources.listing import files_in, subfolders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError, quoted

KAGGLE = Path("ILSVRC/Data/CLS-LOC")
SOLUTION = "LOC_val_solution.csv"  # Kaggle's: ImageId,PredictionString, which begins with the class
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"  # the devkit's: a number for each image, 1 to 1000
META = "meta.mat"  # beside it: which class the numbers mean; they are not in the order of the wnids


class ImageNet(Source):
    """ImageNet (Russakovsky et al. 2015). Classes are the wnids of the folders of train, sorted.

    Images of ``val`` lie in folders of their classes too, or all in one, as they are published; then their labels come
    from Kaggle's LOC_val_solution.csv or from the devkit, somewhere in the folder. Images stand upright as EXIF has it.
    """

    name = "imagenet"
    images: ClassVar = {"train": 1_281_167, "val": 50_000}
    megabytes = 150_000
    licence = "non-commercial research and education only, after registration"
    homepage = "https://image-net.org/download"
    layout = "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/*.JPEG and the devkit"
    folders = ("ILSVRC2012", "imagenet-object-localization-challenge")
    streams = True
    reading = 2  # EXIF's orientation

    def check(self, folder: Path) -> None:
        place = find_images(folder)
        if not subfolders(place / "val"):
            find_labels(folder)

    def read(self, folder: Path, into: Writer) -> None:
        place = find_images(folder)
        train = list_classes(place / "train", into.remarks)
        val = list_val(folder, place / "val", into.remarks)
        write_classes(self.name, folder, {"train": train, "val": val}, into)


def find_images(folder: Path) -> Path:
    """The folder with train and val.

    Raises:
        UserError: if there is none.
    """
    for outer in folders(folder):
        for place in (outer, outer / KAGGLE):
            if (place / "train").is_dir() and (place / "val").is_dir():
                return place
    raise UserError(f"{folder} lacks the folders train and val; dataset=imagenet needs {ImageNet.layout}")


def find_labels(folder: Path) -> Path:
    """The file with the labels of images of val that lie in one folder.

    Raises:
        UserError: if there is none, or the devkit's without its list of classes.
    """
    for place in folders(folder):
        for name in (SOLUTION, GROUND_TRUTH):
            if (place / name).is_file():
                if name == GROUND_TRUTH and not (place / META).is_file():
                    raise UserError(f"{place} lacks {META}, which says what the numbers of {GROUND_TRUTH} mean")
                return place / name
    raise UserError(
        f"{folder} has images of val in one folder but not their labels: it lacks {SOLUTION} (Kaggle's) or "
        f"{GROUND_TRUTH} (the devkit's)"
    )


def list_val(folder: Path, place: Path, remarks: Remarks) -> Classes:
    """The images of val by class.

    Raises:
        UserError: if they or their labels are not as they should be.
    """
    if subfolders(place):
        return list_classes(place, remarks)
    images = files_in(place, ENDINGS)
    if not images:
        raise UserError(f"{place} holds no image")
    wnids = read_labels(find_labels(folder))
    files: Classes = {}
    for image in images:
        wnid = wnids.get(image.stem)
        if wnid is None:
            raise UserError(f"{find_labels(folder)} has no label for {image}")
        files.setdefault(wnid, []).append(str(image))
    return dict(sorted(files.items()))


def read_labels(path: Path) -> Mapping[str, str]:
    """The class of each image of val, by the image's name without its ending.

    Raises:
        UserError: if the file has another content.
    """
    if path.name == SOLUTION:
        try:
            rows = list(csv.reader(lines(path)))[1:]
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as a table: {error}") from error
        if malformed := [number for number, row in enumerate(rows, 2) if len(row) != 2 or not row[1].split()]:
            raise UserError(f"{path}, line {malformed[0]}: expected an image and its class")
        return {image: found.split()[0] for image, found in rows}
    wnids = read_synsets(path.with_name(META))
    labels = {}
    for number, text in enumerate(lines(path), 1):
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) not in wnids:
            raise UserError(f"{path}, line {number}: {quoted(text)} is not the number of a class, 1 to {len(wnids)}")
        labels[f"ILSVRC2012_val_{number:08d}"] = wnids[int(text)]
    return labels


def read_synsets(path: Path) -> dict[int, str]:
    """The wnid of each class by the devkit's number; a synset with children in WordNet is not a class.

    Raises:
        UserError: if the file is not the devkit's.
    """
    try:
        synsets = read_mat(path, "synsets")["synsets"].ravel()
        return {
            int(one["ILSVRC2012_ID"].item()): str(one["WNID"]) for one in synsets if not int(one["num_children"].item())
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error).replace(f"{path} ", "it ")
        raise UserError(f"{path} is not the devkit's list of classes: {reason}") from error
