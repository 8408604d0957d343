"""Generated street scenes as a data set: drawn once, in all cores, and kept with the prepared data."""

import hashlib
import os
import shutil
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trust_exp.data import store
from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.concepts import concept_presence
from trust_exp.data.config import Layer
from trust_exp.data.module import ArrayDataModule
from trust_exp.data.street_scenes.drawing import CLASSES, DRAWING, MATERIALS, PARTS, SCENES, Scene, street_scene
from trust_exp.errors import UserError
from trust_exp.progress import track

SEED = 0  # a data set is the same for every run
LAYERS = (Layer("part", PARTS), Layer("material", MATERIALS))
CHUNK = 8  # scenes that a process draws at a time
WORTH = 64  # scenes that a process must draw to be worth its start


class StreetScenes(ArrayDataModule):
    """Streets with exact labels: a class, a part and a material for every pixel, or the kind of place for an image.

    The first scenes of a split do not depend on their number, so only those that are needed are drawn.

    Args:
        task: segmentation serves maps, classification the kind of place; ``presence`` has the concepts of an image.
        images, test_images: how many there are of each split.
        image_size: height and width.
        common: see ``DataModule``.
    """

    def __init__(
        self,
        name: str = "street_scenes",
        *,
        images: int = 2000,
        test_images: int = 500,
        image_size: tuple[int, int] | list[int] = (128, 256),
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.image_size = (image_size[0], image_size[1])
        whole: dict[Split, int] = {"train": images, "test": test_images}
        self.counts = {split: self._needed(split, count) for split, count in whole.items()}

    def prepare_data(self) -> None:
        for split in self.counts:
            self._ensure(split, verify=True)

    def describe(self) -> DatasetInfo:
        shape, domain = (3, *self.image_size), (0.0, 1.0)
        if self.task == "segmentation":
            return DatasetInfo("street_scenes", CLASSES, shape, domain, self.task, LAYERS)
        return DatasetInfo("street_scenes", SCENES, shape, domain)

    def facts(self) -> dict[str, Any]:
        return {"files": {split: self._manifest(split)["files"] for split in self.counts}}

    def load(self, split: Split) -> Arrays:
        arrays = self._open(split)
        if self.task == "segmentation":
            return Arrays(arrays["images"], arrays["labels"], arrays["concepts"])
        return Arrays(arrays["images"], arrays["scenes"].long())

    def presence(self, split: Split) -> Tensor:
        """Which concepts are in each image that is served: bool [N, concepts], see ``concept_presence``."""
        chunks = self._open(self.parent(split))["concepts"].split(100)  # the maps of all images take gigabytes
        info = DatasetInfo("street_scenes", CLASSES, (3, *self.image_size), None, "segmentation", LAYERS)
        return torch.cat([concept_presence(chunk, info) for chunk in chunks])[self.arrays(split).index]

    def _needed(self, split: Split, count: int) -> int:
        """How many must be drawn: every ``len(SCENES)`` in a row hold each kind of place once."""
        limit, subset = self.limits[split], self.subset
        fewer = subset.index_file or subset.fraction or self.hold_out is not None
        if limit is None or subset.classes or (split == "train" and fewer):
            return count
        return min(count, -(-limit // len(SCENES)) * len(SCENES))

    def _open(self, split: Split) -> dict[str, Tensor]:
        self._ensure(split)
        found = store.open_part(self.root, self._key(split), split)
        return {kind: torch.from_numpy(array) for kind, array in found.items()}

    def _manifest(self, split: Split) -> dict[str, Any]:
        self._ensure(split)
        return store.read_manifest(store.prepared_folder(self.root, self._key(split)))

    def _key(self, split: Split) -> str:
        """The name of the folder of the scenes: another drawing, number or size has another."""
        key = (DRAWING, SEED, split, self.counts[split], self.image_size)
        return f"street_scenes-{hashlib.sha256(repr(key).encode()).hexdigest()[:10]}"

    def _ensure(self, split: Split, *, verify: bool = False) -> None:
        key = self._key(split)
        if store.is_prepared(self.root, key) and not verify:
            return
        with store.alone(self.root, key):
            if not self._is_whole(key):
                shutil.rmtree(store.prepared_folder(self.root, key), ignore_errors=True)
                with store.preparing(self.root, key) as writer:
                    self._draw(split, writer)

    def _is_whole(self, key: str) -> bool:
        if not store.is_prepared(self.root, key):
            return False
        try:
            store.verify(self.root, key)
        except UserError:
            return False
        return True

    def _draw(self, split: Split, into: store.Writer) -> None:
        n, size = self.counts[split], self.image_size
        into.info, into.source = self.describe(), {"verified": True, "generator": DRAWING}
        arrays = {
            "images": into.array(split, "images", (n, 3, *size), np.uint8),
            "labels": into.array(split, "labels", (n, *size), np.int8),
            "concepts": into.array(split, "concepts", (n, 2, *size), np.int8),
            "scenes": into.array(split, "scenes", (n,), np.uint8),
        }
        scenes = draw(split, n, size)
        for row in track(range(n), f"draw {n} street scenes"):
            scene = next(scenes)
            arrays["images"][row], arrays["labels"][row] = scene.image, scene.label
            arrays["concepts"][row] = scene.part, scene.material
            arrays["scenes"][row] = scene.scene
        scenes.close()


def draw(split: str, count: int, size: tuple[int, int]) -> Generator[Scene]:
    """The first ``count`` scenes of a split in order, drawn by as many processes as there are cores."""
    one = partial(street_scene, SEED, split, size=size)
    workers = min(len(os.sched_getaffinity(0)), -(-count // WORTH))
    if workers == 1:
        yield from map(one, range(count))
        return
    # Not by fork, which copies the locks of threads and breaks CUDA. The processes import the drawing alone.
    # Ctrl-C reaches all of them, and this one ends the others.
    context = get_context("forkserver")
    pool = ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(one, range(count), chunksize=CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)
