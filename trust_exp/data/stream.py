"""Batches from image files, decoded by worker processes as they are needed, and the data sets served so."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trust_exp.data import store
from trust_exp.data.batch import AnyBatch, DatasetInfo, Split
from trust_exp.data.config import AugmentConfig
from trust_exp.data.copies import copy_numbers
from trust_exp.data.loader import Loader, Planned
from trust_exp.data.module import DataModule, Prepared
from trust_exp.data.readers.base import Decoder, Index, Reader, Request, watch_signals
from trust_exp.data.readers.boxes import BoxReader
from trust_exp.data.readers.classes import ClassReader
from trust_exp.data.readers.dense import DenseReader
from trust_exp.data.readers.masks import MaskReader
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator
from trust_exp.tasks import Task

AHEAD = 4  # batches that are decoded in advance
CLASSIFIED = ("classification", "anomaly")  # each image has a class
MOST_WORKERS = 16  # more would wait for the disk or for the accelerator


class Queue:
    """The requests of the next pass."""

    requests: Iterator[Request]

    def __iter__(self) -> Iterator[Request]:
        return self.requests


class StreamLoader(Loader):
    """Iterable over the batches of one pass over the rows of a reader.

    The random numbers of a training sample are drawn here and sent with the request to read it, so batches do not
    depend on the number of workers. All workers share every batch, so the first comes soon; they live as long as the
    loader, and serve one pass at a time.

    Args:
        reader: reads samples in the workers and makes batches here.
        rows: int64 [M], the rows that are served, in the order of evaluation; they are the ``index`` of batches.
        batch_size, options: see ``Loader``; ``augment`` changes images on the device, after the reader.
        workers: processes that decode; 0: decode in this one.
        fixed: float32 [M, K], numbers that a reader gets for a row after those that are drawn in every epoch.

    Raises:
        UserError: as ``Loader``; from an iterator, if a file cannot be read.
    """

    def __init__(
        self,
        reader: Reader,
        rows: Tensor,
        batch_size: int,
        *,
        workers: int = 0,
        fixed: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(len(rows), batch_size, **options)
        self.reader, self.rows, self.workers, self.fixed = reader, rows, workers, fixed
        self._queue = Queue()
        self._pool: DataLoader[Any] | None = None
        self._passes = 0
        if workers:
            start_fork_server()

    def __iter__(self) -> Iterator[AnyBatch]:
        plan = self._plan()
        if not plan:  # an empty batch, as other processes wait for this one after each batch
            first = Decoder(self.reader)[Request(self.rows[:1].tolist(), None)]
            yield self._batch([first], Planned(torch.arange(0), None))
            return
        self._passes += 1
        this, decoded = self._passes, self._decoded(plan)
        try:
            for planned in plan:
                yield self._batch([next(decoded) for _ in self._shares(len(planned.rows))], planned)
                if this != self._passes:
                    raise RuntimeError("a StreamLoader serves one pass at a time, and another has begun")
        except GeneratorExit:  # the workers stay for the next pass
            raise
        except BaseException:
            self._pool = None  # ends the workers, which the traceback would keep
            del decoded
            raise

    def _shares(self, samples: int) -> list[slice]:
        """The share of each worker in a batch."""
        size = max(1, -(-samples // max(1, self.workers)))
        return [slice(start, start + size) for start in range(0, samples, size)]

    def _requests(self, plan: list[Planned]) -> Iterator[Request]:
        for rows, step in plan:
            uniform = None if step is None else self._uniform(step, rows)
            for share in self._shares(len(rows)):
                yield Request(self.rows[rows[share]].tolist(), None if uniform is None else uniform[share])

    def _uniform(self, step: int, rows: Tensor) -> np.ndarray:
        # Drawn for the batch of all processes and cut, so that the number of processes changes nothing.
        generator = keyed_generator(self.seed, "view", step)
        drawn: np.ndarray = torch.rand(self.batch_size, self.reader.draws, generator=generator).numpy()
        own = drawn[self._own_share()]
        return own if self.fixed is None else np.concatenate([own, self.fixed[rows].numpy()], axis=1)

    def _decoded(self, plan: list[Planned]) -> Iterator[Any]:
        """Decoded shares from the workers, which stay for the next pass, as starting them takes time."""
        if self._pool is None:
            self._pool = DataLoader(
                Decoder(self.reader),  # type: ignore[arg-type]  # it needs __getitem__ only
                batch_size=None,
                sampler=self._queue,
                num_workers=self.workers,
                prefetch_factor=AHEAD if self.workers else None,
                persistent_workers=self.workers > 0,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=watch_signals,
                multiprocessing_context="forkserver" if self.workers else None,
                generator=torch.Generator(),  # else every pass would draw from the global one
            )
        self._queue.requests = self._requests(plan)
        return iter(self._pool)

    def _batch(self, shares: list[Any], planned: Planned) -> AnyBatch:
        for share in shares:
            if isinstance(share, UserError):
                raise share
        moved = [[part.to(self.device, non_blocking=True) for part in share] for share in shares]
        parts = tuple(torch.cat(part)[: len(planned.rows)] for part in zip(*moved, strict=True))
        batch = self.reader.batch(parts, self.rows[planned.rows].to(self.device))
        if planned.step is None or self.augment is None:
            return batch
        return batch._replace(image=self.augment.apply(batch.image, self._drawn(self.augment, planned.step)))


def start_fork_server() -> None:
    """Start the process that workers are forked from, unless it runs; do not wait for its imports.

    Forking this process is quicker, but CUDA, NCCL and threads do not survive it; spawning takes seconds of imports for
    every worker. Ctrl-C and SIGTERM reach whole process groups and SLURM steps: blocked here, they are blocked in the
    server and its workers too, and this process alone reacts to them.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # otherwise the server starts it, which unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StreamDataModule(DataModule):
    """A data set of image files that are read during training; prepared is an index of them.

    Workers crop and flip. Colours are changed on the device, a batch at a time; so are rotation and padded crops of
    images with a class.

    Args:
        train, test, val, path, source: see ``PreparedDataModule``.
        image_size: height and width of the served images.
        resize: shorter side before the crop of evaluation; None: the least that covers ``image_size``.
        workers: processes that decode; None: one for each core of this process, divided among the devices here.
        crop: first crop each image to its box; for sets that have boxes.
        stretch: resize whole images to ``image_size``, whatever their shape.
        copies: of each training image, see ``changed_copy``; 0: the image itself.
        task, augment, common: see ``DataModule``.

    Raises:
        UserError: as ``PreparedDataModule``; from loaders, if a file was changed or damaged since it was indexed.
    """

    def __init__(
        self,
        name: str,
        *,
        train: list[str] | None = None,
        test: list[str] | None = None,
        path: str | None = None,
        source: str | None = None,
        val: list[str] | None = None,
        image_size: tuple[int, int] | list[int] = (224, 224),
        resize: int | None = None,
        workers: int | None = None,
        crop: bool = False,
        stretch: bool = False,
        copies: int = 0,
        task: Task = "classification",
        augment: AugmentConfig | Mapping[str, Any] | None = None,
        **common: Any,
    ) -> None:
        self.changes = augment if isinstance(augment, AugmentConfig) else AugmentConfig(**(augment or {}))
        super().__init__(name, task=task, augment=on_device(self.changes, task), **common)
        self.prepared, self.has_val = Prepared(source or name, self.root, path, train, test, val), bool(val)
        self.image_size, self.resize = (image_size[0], image_size[1]), resize
        self.workers, self.crop, self.stretch, self.copies = workers, crop, stretch, copies
        self._indexes: dict[Split, Index] = {}
        self._readers: dict[Split, Reader] = {}
        self._rows: dict[Split, Tensor] = {}

    def prepare_data(self) -> None:
        if self.workers != 0:
            start_fork_server()  # now, so that it is ready with the model
        self.prepared.verify()
        if not self._folder.is_dir():
            raise UserError(
                f"the images of dataset={self.name} are no longer in {self._folder}; "
                "put them back, or give their folder as dataset.path=<folder>"
            )

    def facts(self) -> dict[str, Any]:
        return self.prepared.facts()

    def remarks(self) -> list[str]:
        return self.prepared.remarks()

    def describe(self) -> DatasetInfo:
        return replace(store.read_info(self.prepared.manifest), shape=(3, *self.image_size))

    def size(self, split: Split) -> int:
        return len(self.rows(split))

    def rows(self, split: Split) -> Tensor:
        """Rows of the index that are served, int64 [M]."""
        if split not in self._rows:
            self._rows[split] = self._chosen(split, self.all_labels(self.parent(split)))
        return self._rows[split]

    def served(self, split: Split) -> Tensor:
        return self.rows(split)

    def samples(self, split: Split, rows: Tensor) -> AnyBatch:
        loader = StreamLoader(self._reader(split), self.rows(split)[rows], max(1, len(rows)))
        return next(iter(loader))

    def all_labels(self, split: Split) -> Tensor:
        index = self._index(split)
        return torch.from_numpy(index["labels"].astype(np.int64) if self.task in CLASSIFIED else index["sizes"])

    def label_arrays(self, split: Split) -> list[np.ndarray]:
        index = self._index(split)
        kinds = {
            "classification": ["labels"],
            "anomaly": ["labels"],
            "detection": ["boxcount", "boxlabels", "boxes", "difficult"],
            "segmentation": ["maps", "sizes"],  # the file names of the label maps: reading all maps takes too long
        }
        return [index[kind] for kind in kinds[self.task]]

    def train_loader(self, rows: Tensor | None = None, position: Callable[[], int] | None = None) -> StreamLoader:
        rows = self.rows("train") if rows is None else self.rows("train")[rows]
        loader = self._loader(
            "train",
            rows.repeat(max(1, self.copies)),
            self.batch_size,
            fixed=copy_numbers(len(rows), self.copies, self.seed) if self.copies else None,
            position=position or (lambda: self._consumed(batches)),
            seed=self.seed,
            augment=self.augment,
        )
        batches: int = len(loader)  # a loader that refers to itself keeps its workers until garbage collection
        return loader

    def eval_loader(self, split: Split, rows: Tensor | None = None, batch_size: int | None = None) -> StreamLoader:
        chosen = self.rows(split) if rows is None else self.rows(split)[rows]
        return self._loader(split, chosen, batch_size or self.eval_batch_size)

    def _loader(self, split: Split, rows: Tensor, batch_size: int, **options: Any) -> StreamLoader:
        return StreamLoader(
            self._reader(split), rows, batch_size, workers=self._worker_count(), **options, **self._place()
        )

    def _worker_count(self) -> int:
        if self.workers is not None:
            return self.workers
        here = 1 if self.trainer is None else self.trainer.num_devices
        return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)) // here))

    @property
    def _folder(self) -> Path:
        return Path(self.prepared.manifest["folder"])

    def _reader(self, split: Split) -> Reader:
        split = self.parent(split)
        if split not in self._readers:
            self._readers[split] = self._new_reader(self._index(split))
        return self._readers[split]

    def _index(self, split: Split) -> Index:
        if split not in self._indexes:
            name = self.prepared.manifest["name"]
            self._indexes[split] = Index(self.prepared.root, name, self.prepared.parts[split])
        return self._indexes[split]

    def _new_reader(self, arrays: Index) -> Reader:
        served: Any = (self.image_size, self.resize, self.changes)
        info = self.describe()
        if self.task == "segmentation":
            return DenseReader(self.prepared.source.maps, self._folder, arrays, info, *served)
        if self.task == "detection":
            return BoxReader(self._folder, arrays, info, *served)
        classes = self.subset.renumbered(torch.arange(len(info.classes)), info)
        kind = MaskReader if self.task == "anomaly" else ClassReader
        return kind(self._folder, arrays, classes, *served, crop=self.crop, stretch=self.stretch)


def on_device(augment: AugmentConfig, task: Task) -> AugmentConfig:
    """The changes that are left for the device after a reader has done its own.

    Raises:
        UserError: if a change is not available for boxes.
    """
    if task in CLASSIFIED:
        return replace(augment, resized_crop=None, flip=False)
    for key in ("pad", "rotate", "resized_crop"):
        if task == "detection" and getattr(augment, key):
            raise UserError(f"dataset.augment.{key} is not for images with boxes; they take scale, shift and flip")
    return AugmentConfig(jitter=augment.jitter, hue=augment.hue, blur=augment.blur)
