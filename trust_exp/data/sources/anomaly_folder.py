"""Folders of normal and defective images, as MVTec AD and others have them: the user's own. No torch."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.readers.images import read_mask
from trust_exp.data.remarks import Remarks
from trust_exp.data.sources.folder import Folder, list_classes, write_index
from trust_exp.data.sources.label_maps import for_each
from trust_exp.data.sources.layout import as_bytes
from trust_exp.data.sources.listing import files_in, subfolders
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

GOOD = "good"
MASKS = "ground_truth"
ENDING = "_mask"  # of a mask's name, before .png


class AnomalyFolder(Folder):
    """``dataset=anomaly_folder dataset.path=<folder>``: normal images to train on, and also defective ones to test on.

    Each kind of defect has a folder in ``test`` and is a class; ``good`` is class 0, the normal one. A mask is white
    where its image is defective: ``ground_truth/<defect>/<name of the image>_mask.png``, of the image's size. There may
    be masks for no defect, for some, or for all; without ``test`` there is nothing to evaluate, but training works.
    """

    name = "anomaly_folder"
    task = "anomaly"
    layout = (
        "train/good/<image>, test/good/<image>, test/<defect>/<image>, perhaps ground_truth/<defect>/<image>_mask.png"
    )
    reading = 1

    def check(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        if not (folder / "train" / GOOD).is_dir():
            raise UserError(f"{folder} lacks the folder train/{GOOD}; it must hold {self.layout}")

    def read(self, folder: Path, into: Writer) -> None:
        self.check(folder)
        train = list_classes(folder / "train", into.remarks)
        if others := [name for name in train if name != GOOD]:
            raise UserError(f"{folder / 'train'} holds {others[0]} beside {GOOD}; only normal images are trained on")
        test = list_classes(folder / "test", into.remarks) if (folder / "test").is_dir() else {}
        classes = (GOOD, *(name for name in test if name != GOOD))
        parts = {"train": train, **({"test": {name: test[name] for name in classes if name in test}} if test else {})}
        masks = list_masks(folder, test, into.remarks)
        samples = {
            part: [(path, classes.index(name)) for name, paths in own.items() for path in paths]
            for part, own in parts.items()
        }
        sizes = write_index(folder, samples, into, upright=True)
        if test:
            names = [masks.get(path, "") for path, _ in samples["test"]]
            check_masks(samples["test"], names, sizes[len(samples["train"]) :])
            into.put("test", masks=as_bytes(os.path.relpath(name, folder) if name else "" for name in names))
        else:
            into.lacking["test"] = f"{folder} has no folder test, so there is nothing to evaluate on: eval=[]"
        into.info = DatasetInfo(self.name, classes, (3, 224, 224), (0.0, 1.0), task="anomaly", normal=((0,),))


def list_masks(folder: Path, test: Mapping[str, list[str]], remarks: Remarks) -> dict[str, str]:
    """The mask of each image that has one, as paths.

    Raises:
        UserError: for a folder of masks without a folder of images, and a mask without its image.
    """
    found: dict[str, str] = {}
    for place in subfolders(folder / MASKS) if (folder / MASKS).is_dir() else []:
        if place.name not in test or place.name == GOOD:
            raise UserError(f"{place} holds masks, but there is no test/{place.name} with images of this defect")
        images = {Path(path).stem: path for path in test[place.name]}
        for mask in files_in(place, (".png",)):
            name = mask.stem.removesuffix(ENDING)
            if name not in images:
                raise UserError(f"{mask} is a mask without its image: test/{place.name} has no {name}")
            found[images[name]] = str(mask)
    return found


def check_masks(samples: list[tuple[str, int]], masks: list[str], sizes: np.ndarray) -> None:
    """Raise UserError for the first mask that is of another size than its image, or empty."""

    def defect(place: int) -> str:
        if not masks[place]:
            return ""
        mask, (height, width) = read_mask(masks[place]), sizes[place]
        if mask.shape != (height, width):
            return f"has {mask.shape[1]}x{mask.shape[0]} pixels, its image {samples[place][0]} {width}x{height}"
        return "" if mask.any() else "is empty, and its image is one of a defect"

    for mask, what in zip(masks, for_each(range(len(masks)), defect, "check the masks"), strict=True):
        if what:
            raise UserError(f"{mask} {what}")
