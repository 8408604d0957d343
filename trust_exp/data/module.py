"""LightningDataModules: the interface of all, and those that serve from memory."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from trust_exp.data import sources, store
from trust_exp.data.augment import Augment
from trust_exp.data.batch import AnyBatch, Arrays, DatasetInfo, Split
from trust_exp.data.config import LEAST_NORMALS, AugmentConfig
from trust_exp.data.loader import ArrayLoader
from trust_exp.data.provenance import split_facts
from trust_exp.data.remarks import sentences
from trust_exp.data.subset import Subset, balanced_subset, held_out, long_tail
from trust_exp.errors import UserError
from trust_exp.tasks import TASKS, Task


class DataModule(L.LightningDataModule):
    """The interface of all data sets, wherever their samples are served from.

    Args:
        name: of the data set in messages.
        batch_size: of one optimiser step, over all processes.
        eval_batch_size: of one evaluation batch, in one process.
        augment: changes of training images, an AugmentConfig or its fields.
        limit_train, limit_test: serve at most this many samples, see ``balanced_subset``; ``limit_train`` also limits
            val, to the same fraction.
        keep_on_device: keep the samples in the accelerator's memory if they fit.
        classes, index_file, fraction: a choice of samples, see ``Subset``.
        imbalance: make the chosen training samples long-tailed, see ``long_tail``.
        hold_out: serve this fraction of the training split as val and never as train, see ``held_out``. The other
            options choose among the samples that are left for training; only ``classes`` and ``limit_train`` also
            apply to val.
        normal_class: train and val serve these classes alone, test serves all, see ``Subset``; the task is anomaly.
        task: the kind of labels of the files.
        root: folder of all data.
        seed: of the order and the augmentation; it does not change which samples are served.

    Raises:
        UserError: if augmentation is set for data that are not images.
    """

    has_val = False  # whether the set has its own validation part

    def __init__(
        self,
        name: str,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: AugmentConfig | Mapping[str, Any] | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
        keep_on_device: bool = True,
        classes: list[str] | None = None,
        index_file: str | None = None,
        fraction: float | None = None,
        imbalance: float | None = None,
        hold_out: float | None = None,
        normal_class: list[str] | None = None,
        task: Task = "classification",
        root: str | Path = "data",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.task, self.root, self.seed = name, task, Path(root), seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.limits: dict[Split, int | None] = {"train": limit_train, "test": limit_test}
        self.keep_on_device, self.imbalance, self.hold_out = keep_on_device, imbalance, hold_out or None
        self.subset = Subset(classes, index_file, fraction, normal_class)
        config = augment if isinstance(augment, AugmentConfig) else AugmentConfig(**(augment or {}))
        self.augment = None if config == AugmentConfig() else Augment(config)
        self._info: DatasetInfo | None = None

    @property
    def info(self) -> DatasetInfo:
        """Classes, shape, range and task of the samples that are served; prepares the data if needed."""
        if self._info is None:
            info = self.describe()
            if info.task != self.task:
                raise UserError(f"dataset={self.name} is for {info.task}; dataset.task={self.task} was given")
            if self.augment and len(info.shape) != 3:
                raise UserError(
                    f"dataset.augment changes images; dataset={self.name} has vectors of length {info.shape[0]}"
                )
            self._info = self.subset.narrow(info)
        return self._info

    def describe(self) -> DatasetInfo:
        """The same of the whole data set, before any choice of classes."""
        raise NotImplementedError

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that are served."""
        return ("train", "val", "test") if self.has_val or self.hold_out is not None else ("train", "test")

    def parent(self, split: Split) -> Split:
        """The split that numbers the samples of ``split``: train for held-out samples, else ``split`` itself.

        Raises:
            UserError: if there is no val, or two.
        """
        if self.has_val and self.hold_out is not None:
            raise UserError(f"dataset={self.name} has its own validation part; omit dataset.hold_out={self.hold_out:g}")
        if split not in self.splits:
            raise UserError(
                f"dataset={self.name} has no validation part; dataset.hold_out=0.1 makes one of the training samples"
            )
        return "train" if split == "val" and not self.has_val else split

    def origin(self) -> dict[str, Any]:
        """Where the data come from, with checksums; two runs with equal sources have seen equal data."""
        if self.hold_out is None:
            return self.facts()
        rows = self._among("val", self.all_labels("train")).numpy()
        checksum = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        return {**self.facts(), "held_out": {"samples": len(rows), "checksum": checksum}}

    def facts(self) -> dict[str, Any]:
        """Facts about the files, for ``source``; {} for embedded data."""
        return {}

    def remarks(self) -> list[str]:
        """What a person should know of how the files were read, one sentence each, such as what was left out."""
        return []

    def eval_loader(self, split: Split, rows: Tensor | None = None, batch_size: int | None = None) -> Any:
        """Every sample, or those at ``rows`` (int64 [M], places among those served), once over all processes, in order,
        unchanged.
        """
        raise NotImplementedError

    def size(self, split: Split) -> int:
        """How many samples are served."""
        raise NotImplementedError

    def samples(self, split: Split, rows: Tensor) -> AnyBatch:
        """The samples at ``rows`` (int64 [M], places among those served), unchanged, in CPU memory."""
        raise NotImplementedError

    def encoded(self, split: Split, groups: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """Encodings of groups of images, one group after the other, all in this process; float32 [M, ...].

        Args:
            groups: the images of each, int64 [M], M > 0, places among those served; read in one pass.
            encode: maps images [B, ...] to [B, ...].
        """
        if not groups:
            return
        loader = self.eval_loader(split, torch.cat(list(groups)))
        loader.rank, loader.world = 0, 1
        batches, found = iter(loader), torch.empty(0)
        for group in groups:
            out, filled = torch.empty(0), 0
            while filled < len(group):
                if not len(found):
                    found = encode(next(batches).image).float()
                if not filled:  # filled in place, as it may take most of the memory
                    out = found.new_empty(len(group), *found.shape[1:])
                taken = found[: len(group) - filled]
                out[filled : filled + len(taken)] = taken
                filled, found = filled + len(taken), found[len(taken) :]
            yield out
            del out

    def served(self, split: Split) -> Tensor:
        """Positions in the whole split of the samples that are served, int64 [M], in the order of evaluation."""
        raise NotImplementedError

    def all_labels(self, split: Split) -> Tensor:
        """All labels of a whole split (train, test or the set's own val): int64 [N], or [N, ...] of pixels or boxes."""
        raise NotImplementedError

    def whole_labels(self, split: Split) -> Tensor:
        """Labels of all samples, served or not, int64 [N], numbered as ``describe`` names the classes.

        Raises:
            UserError: if images do not have one class each.
        """
        labels = self.all_labels(self.parent(split))
        if labels.dim() != 1:
            raise UserError(f"dataset={self.name} has {TASKS[self.task]}, not {TASKS['classification']}")
        return labels

    def labels(self, split: Split) -> Tensor:
        """Labels of all samples, numbered among the chosen classes, int64 [N]; -1 for those of other classes.

        Raises:
            UserError: if images do not have one class each.
        """
        return self.subset.renumbered(self.whole_labels(split), self.describe())

    def served_labels(self, split: Split) -> Tensor:
        """Labels of the samples that are served, int64 [M], as of ``labels``.

        Raises:
            UserError: if images do not have one class each.
        """
        return self.labels(split)[self.served(split)]

    def label_arrays(self, split: Split) -> list[np.ndarray]:
        """All labels of a whole split, of every kind, for their checksum; the first has a row for each sample."""
        return [self.all_labels(split).numpy()]

    def sample_facts(self) -> dict[str, Any]:
        """Facts that identify the training samples, for files that refer to them by number; and their source."""
        return {**split_facts(self.describe().name, *self.label_arrays("train")), "source": self.origin()}

    def _chosen(self, split: Split, labels: Tensor) -> Tensor:
        """Rows that are served, int64 [M], increasing. ``labels``: ``all_labels`` of the ``parent``."""
        self._check_labels(labels)
        among = self._among(split, labels)
        facts = None if self.subset.index_file is None else self.sample_facts()
        rows = self.subset.rows(split, labels, self.describe(), among, facts)
        limit = self._val_limit(len(among)) if split == "val" else self.limits[split]
        if limit is not None and split == "train":
            limit *= len(self.subset.normals(self.describe())) or 1  # of the samples of each model
        if limit is not None and limit < len(rows):
            rows = rows[balanced_subset(labels[rows], limit)]
        if split == "train" and self.imbalance is not None:
            if labels.dim() != 1:
                raise UserError(f"dataset.imbalance is of classes; dataset={self.name} has images without one")
            rows = rows[long_tail(self.subset.renumbered(labels[rows], self.describe()), self.imbalance)]
        if split == "train":
            self._check_normals(labels[rows])
        return rows

    def _check_normals(self, labels: Tensor) -> None:
        """Raise UserError if a model has too few training samples to say what is normal."""
        info = self.describe()
        for classes in self.subset.normals(info):
            found = int(torch.isin(labels, torch.tensor(classes)).sum())
            if found < LEAST_NORMALS:
                names = ", ".join(info.classes[number] for number in classes)
                raise UserError(
                    f"dataset={self.name} has {found} training samples of the normal class {names}; "
                    f"at least {LEAST_NORMALS} are needed"
                )

    def _check_labels(self, labels: Tensor) -> None:
        classes = len(self.describe().classes)
        if self.task in ("classification", "anomaly") and classes and len(labels):
            wrong = next((int(one) for one in torch.aminmax(labels) if not 0 <= one < classes), None)
            if wrong is not None:
                raise UserError(
                    f"dataset={self.name} has the label {wrong}; its {classes} classes are 0 to {classes - 1}"
                )

    def _among(self, split: Split, labels: Tensor) -> Tensor:
        """The rows of the ``parent`` that belong to ``split``, int64 [M], increasing."""
        rows = torch.arange(len(labels))
        if split == "test":
            return rows
        if self.hold_out is not None:
            held = held_out(labels, self.hold_out, self.describe().name)
            rows = held if split == "val" else rows[~torch.isin(rows, held)]
        if normals := self.subset.normals(self.describe()):
            rows = rows[torch.isin(labels[rows], torch.tensor(sorted({number for own in normals for number in own})))]
        return rows

    def _val_limit(self, samples: int) -> int | None:
        """How many of ``samples`` validation samples are served: the fraction that ``limit_train`` leaves of train."""
        limit = self.limits["train"]
        if limit is None:
            return None
        whole = self.all_labels("train")
        models = len(self.subset.normals(self.describe())) or 1
        return max(1, round(models * limit * samples / len(self._among("train", whole))))

    def train_loader(self, rows: Tensor | None = None, position: Callable[[], int] | None = None) -> Any:
        """Shuffled, augmented training batches, which go on where the training stands.

        Args:
            rows: int64 [M], places among the training samples that are served; None: all of them.
            position: gives the number of batches already consumed; None: that of the trainer's step, or 0 without one.
        """
        raise NotImplementedError

    def train_dataloader(self) -> Any:
        return self.train_loader()

    def test_dataloader(self) -> Any:
        return self.eval_loader("test")

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        if trainer is None:
            return {"device": torch.device("cpu")}
        return {"device": trainer.strategy.root_device, "rank": trainer.global_rank, "world": trainer.world_size}

    def _consumed(self, batches_per_epoch: int) -> int:
        """Training batches before the trainer's step; with accumulation a step takes several, fewer at an epoch's end.

        Counted from the step: in a checkpoint Lightning's own count of batches may be ahead of it.
        """
        if self.trainer is None:
            return 0
        batches_per_step = self.trainer.accumulate_grad_batches
        epoch, step = divmod(self.trainer.global_step, math.ceil(batches_per_epoch / batches_per_step))
        return epoch * batches_per_epoch + step * batches_per_step


class ArrayDataModule(DataModule):
    """Serves a data set from memory; a subclass implements ``describe`` and ``load``."""

    def __init__(self, name: str, **common: Any) -> None:
        super().__init__(name, **common)
        self._arrays: dict[Split, Arrays] = {}
        self._served: dict[tuple[Split, torch.device], Arrays] = {}

    def load(self, split: Split) -> Arrays:
        """The whole split, read or generated; the same for every seed."""
        raise NotImplementedError

    def arrays(self, split: Split) -> Arrays:
        """The samples that are served, in CPU memory."""
        if split not in self._arrays:
            arrays = self.load(self.parent(split))
            rows = self._chosen(split, arrays.labels)
            if len(rows) < len(arrays):
                arrays = arrays.select(rows)
            self._arrays[split] = self.subset.renumber(arrays, self.describe())
        return self._arrays[split]

    def size(self, split: Split) -> int:
        return len(self.arrays(split))

    def samples(self, split: Split, rows: Tensor) -> AnyBatch:
        return self.arrays(split).select(rows).batch()

    def served(self, split: Split) -> Tensor:
        return self.arrays(split).index

    def all_labels(self, split: Split) -> Tensor:
        return self.load(split).labels

    def label_arrays(self, split: Split) -> list[np.ndarray]:
        arrays = self.load(split)
        return [labels.numpy() for labels in (arrays.labels, arrays.concepts) if labels is not None]

    def train_loader(self, rows: Tensor | None = None, position: Callable[[], int] | None = None) -> ArrayLoader:
        arrays = self._arrays_near_device("train")
        if rows is not None:
            arrays = arrays.select(rows.to(arrays.images.device))
        loader: ArrayLoader = ArrayLoader(
            arrays,
            self.batch_size,
            position=position or (lambda: self._consumed(len(loader))),
            seed=self.seed,
            augment=self.augment,
            **self._place(),
        )
        return loader

    def eval_loader(self, split: Split, rows: Tensor | None = None, batch_size: int | None = None) -> ArrayLoader:
        arrays = self._arrays_near_device(split)
        if rows is not None:
            arrays = arrays.select(rows.to(arrays.images.device))
        return ArrayLoader(arrays, batch_size or self.eval_batch_size, **self._place())

    def _arrays_near_device(self, split: Split) -> Arrays:
        arrays, device = self.arrays(split), self._place()["device"]
        if not self.keep_on_device or device.type == "cpu" or not _fits(arrays, device):
            return arrays
        if (split, device) not in self._served:
            self._served[split, device] = arrays.to(device)
        return self._served[split, device]


def _fits(arrays: Arrays, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return arrays.nbytes < free / 4  # the rest is for the model and other processes


class Prepared:
    """A data set of ``trust_exp.data.sources``: each split is one of its parts, or several in a row.

    Args:
        name: of the source.
        root: folder of all data.
        path: of the set's files, if they are not in ``root``.
        train, test: the parts of each split, by their published names; None: the part of that name.
        val: the parts for validation; None: there is no such split.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        path: str | None = None,
        train: list[str] | None = None,
        test: list[str] | None = None,
        val: list[str] | None = None,
    ) -> None:
        self.name, self.root = name, root
        self.parts: dict[Split, list[str]] = {"train": train or ["train"], "test": test or ["test"], "val": val or []}
        self.path = None if path is None else Path(path).expanduser()
        self._manifest: dict[str, Any] | None = None

    @property
    def source(self) -> sources.Source:
        """Where it comes from."""
        return sources.find_source(self.name).at(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the prepared set; prepares it if needed."""
        if self._manifest is None:
            self._manifest = sources.ensure(self.source, self.root, self.path)
        return self._manifest

    def verify(self) -> None:
        """Compare every file with its checksum."""
        store.verify(self.root, str(self.manifest["name"]))

    def open(self, split: Split) -> dict[str, np.ndarray]:
        """The arrays of a split by their kind."""
        return store.open_parts(self.root, str(self.manifest["name"]), self.parts[split])

    def facts(self) -> dict[str, Any]:
        """For a run's record: two runs with equal facts have seen equal data."""
        return store.facts(self.manifest)

    def remarks(self) -> list[str]:
        """What was left out of the files and why, a sentence for each kind."""
        return [f"dataset={self.name}: {sentence}" for sentence in sentences(self.manifest.get("remarks", {}))]


class PreparedDataModule(ArrayDataModule):
    """A data set that was prepared into arrays, served from memory.

    Args:
        train, test, val: the parts of each split, by their published names; val may have none.
        path: of the set's files, if they are not in ``root``.
        source: the name of the source, if it is not ``name``.
        common: see ``DataModule``.

    Raises:
        UserError: from ``prepare_data`` and ``load``, if the data are missing and cannot be downloaded, or are damaged.
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
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.prepared, self.has_val = Prepared(source or name, self.root, path, train, test, val), bool(val)

    def prepare_data(self) -> None:
        self.prepared.verify()  # takes seconds for the largest set, and damaged data would waste a training

    def facts(self) -> dict[str, Any]:
        return self.prepared.facts()

    def remarks(self) -> list[str]:
        return self.prepared.remarks()

    def describe(self) -> DatasetInfo:
        return store.read_info(self.prepared.manifest)

    def load(self, split: Split) -> Arrays:
        arrays = {kind: torch.from_numpy(array) for kind, array in self.prepared.open(split).items()}
        labels = arrays["labels"].long() if arrays["labels"].dim() == 1 else arrays["labels"]
        return Arrays(arrays["images"], labels, arrays.get("concepts"))
