"""Schemas of the options of data sets, and the facts about one before it is loaded. No torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from trust_exp.data.super_classes import super_class
from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import added_later, outside_identity, reference
from trust_exp.tasks import TASKS, Task

UNKNOWN = -1  # in a label map: not labelled
NOTHING = -2  # in a map of concepts: labelled, but with none of them
HELD_OUT_NORMALS = 0.1  # of the normal training samples, for thresholds, unless dataset.hold_out says otherwise
ONE_CLASS = ("classification",)
EACH = "each"  # dataset.normal_class=each: every class is normal for a model of its own
LEAST_NORMALS = 20  # training samples


@dataclass(frozen=True)
class Layer:
    """One map of concepts; where labels overlap, several layers have concepts of the same kind."""

    kind: str  # object, part, material, ...
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set: its classes, the maps of concepts of its images, its range.

    ``shape`` is that of one sample, (C, H, W) or (D,); ``domain`` is the range that attacks stay in, or None.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    domain: tuple[float, float] | None
    task: Task = "classification"
    layers: tuple[Layer, ...] = ()
    normal: tuple[
        tuple[int, ...], ...
    ] = ()  # task anomaly: for each model, the numbers of the classes it takes as normal


@dataclass
class AugmentConfig:
    """Random changes of training images, in this order: crop, flip, jitter, rotation (Losch 2024, Fig. 3.3, B.2).

    The crop is one of ``pad``, ``resized_crop`` and ``scale``; blur comes last.
    """

    pad: int = 0  # pixels of zero padding on each side before a crop back to the size of the image
    flip: bool = False  # left and right, with probability 1/2
    jitter: float = 0.0  # brightness, contrast, saturation: factors in [1 - jitter, 1 + jitter]
    rotate: float = 0.0  # degrees to either side
    resized_crop: list[float] | None = added_later(None)  # area of a crop that is then resized, as fractions: [0.08, 1]
    ratio: list[float] = added_later(lambda: [3 / 4, 4 / 3])  # width over height of that crop
    scale: list[float] | None = added_later(None)  # size of the whole image before a crop: [0.5, 2]
    size: list[int] | None = added_later(None)  # height and width of that crop; None: those of the served images
    shift: float = added_later(0.0)  # of the crop, as a fraction of the image, to each side
    hue: float = added_later(0.0)  # turn of the colour circle, to each side
    blur: float = added_later(0.0)  # probability of a Gaussian blur of 5x5 pixels

    def __post_init__(self) -> None:
        check_range("dataset.augment.pad", self.pad, least=0)
        check_range("dataset.augment.rotate", self.rotate, least=0, most=180)
        check_range("dataset.augment.hue", self.hue, least=0, most=0.5)
        for key in ("jitter", "shift", "blur"):
            check_range(f"dataset.augment.{key}", getattr(self, key), least=0, most=1)
        for key, most in (("resized_crop", 1.0), ("ratio", None), ("scale", None)):
            _check_interval(f"dataset.augment.{key}", getattr(self, key), most)
        if self.size is not None and (self.scale is None or self.shift or len(self.size) != 2 or min(self.size) < 1):
            raise UserError(f"dataset.augment.size must be [height, width] of a crop by scale; got {self.size}")
        crops = [key for key in ("pad", "resized_crop", "scale") if getattr(self, key)]
        if len(crops) > 1:
            raise UserError(f"dataset.augment takes one kind of crop; got {' and '.join(crops)}")
        if self.resized_crop and self.shift:
            raise UserError(f"dataset.augment.shift={self.shift:g} has no effect on a resized_crop; choose one of them")


def _check_interval(key: str, value: list[float] | None, most: float | None = None) -> None:
    if value is None:
        return
    if len(value) != 2 or not 0 < value[0] <= value[1] or (most is not None and value[1] > most):
        limit = "" if most is None else f", at most {most:g}"
        raise UserError(f"{key} must be two positive numbers, the lesser first{limit}; got {value}")


@dataclass
class DataConfig:
    """Schema of conf/dataset. Fields marked ``outside_identity`` do not change what is trained."""

    tasks: ClassVar[tuple[Task, ...]] = tuple(TASKS)  # the values that ``task`` may have

    _target_: str = MISSING
    name: str = MISSING
    task: str = added_later("classification")  # the kind of its labels
    batch_size: int = 128  # of one optimiser step, over all devices
    eval_batch_size: int = outside_identity(500)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    limit_train: int | None = None  # at most this many samples, the same number of each class
    limit_test: int | None = None
    keep_on_device: bool = outside_identity(True)  # in the accelerator's memory if it fits
    classes: list[str] | None = added_later(None)  # only these, by name or number, renumbered in this order
    index_file: str | None = reference(came_late=True)  # only the training samples that this file lists
    fraction: float | None = added_later(None)  # only this fraction of the training samples of each class
    imbalance: float | None = added_later(None)  # first training class over the last: sizes fall exponentially
    hold_out: float | None = added_later(None)  # fraction of the training samples of each class to validate on instead
    normal_class: Any = added_later(None)  # train on this class alone, or on a list of them; each: one model a class

    def __post_init__(self) -> None:
        for key in ("batch_size", "eval_batch_size", "limit_train", "limit_test"):
            check_range(f"dataset.{key}", getattr(self, key), least=1)
        check_choice("dataset.task", self.task, self.tasks)
        check_range("dataset.fraction", self.fraction, above=0, most=1)
        check_range("dataset.imbalance", self.imbalance, least=1)
        if self.normal_class is not None:
            self._take_normal_class()
        none_held_out = self.hold_out == 0 and (self.normal_class is not None or self.task == "anomaly")
        if self.hold_out is not None and not none_held_out and not 0 < self.hold_out < 1:
            raise UserError(f"dataset.hold_out must be between 0 and 1, both excluded; got {self.hold_out:g}")

    def _take_normal_class(self) -> None:
        """One class that is normal makes another task, whose thresholds are chosen by normal samples held out."""
        given = self.normal_class
        self.normal_class = [str(name) for name in (given if isinstance(given, list | tuple) else [given])]
        if self.task != "classification":
            labels = {str(task): phrase for task, phrase in TASKS.items()}.get(self.task, "others")
            raise UserError(f"dataset.normal_class needs a class for each image; dataset={self.name} has {labels}")
        if not self.normal_class:
            raise UserError("dataset.normal_class must name a class, or each")
        if self.hold_out is None and not getattr(self, "val", None):
            self.hold_out = HELD_OUT_NORMALS


@dataclass
class PreparedConfig(DataConfig):
    """Schema of the data sets that are prepared from files; parts have their published names."""

    train: list[str] = field(default_factory=lambda: ["train"])  # parts to train on
    test: list[str] = field(default_factory=lambda: ["test"])  # parts to evaluate on
    path: str | None = None  # of the files, if they are not under paths.data; checked, it is absolute
    source: str | None = None  # the name of the source, if it is not that of the data set
    val: list[str] = added_later(list)  # parts to validate on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is not None:  # in another folder the same words mean other files
            self.path = str(Path(self.path).expanduser().resolve())
        for split, parts in (("train", self.train), ("test", self.test)):
            if not parts or len(set(parts)) < len(parts):
                raise UserError(f"dataset.{split} must name at least one part, and none twice; got {parts}")
            if shared := set(parts) & set(self.val):
                raise UserError(f"dataset.val={self.val} and dataset.{split}={parts} share {', '.join(sorted(shared))}")
        if len(set(self.val)) < len(self.val):
            raise UserError(f"dataset.val must name no part twice; got {self.val}")
        if self.val and self.hold_out is not None:
            raise UserError(
                f"dataset.val={self.val} and dataset.hold_out={self.hold_out:g} are two validation sets; choose one"
            )


@dataclass
class StreamConfig(PreparedConfig):
    """Schema of the data sets whose files are read during training."""

    image_size: list[int] = field(default_factory=lambda: [224, 224])  # height and width of the served images
    resize: int | None = None  # shorter side before the crop; None: the least that covers image_size
    crop: bool = False  # each image to its box before all else, for sets that have one
    stretch: bool = added_later(False)  # resize the whole image to image_size; resize is then ignored
    copies: int = added_later(0)  # of each training image, turned, skewed or sheared once; 0: the image itself
    workers: int | None = outside_identity(None)  # processes that decode; None: one a core
    eval_batch_size: int = outside_identity(64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(f"dataset.image_size must be [height, width]; got {self.image_size}")
        check_range("dataset.resize", self.resize, least=1)
        check_range("dataset.workers", self.workers, least=0)
        check_range("dataset.copies", self.copies, least=0)
        for key, tasks in (("crop", ONE_CLASS), ("stretch", (*ONE_CLASS, "anomaly")), ("copies", ONE_CLASS)):
            if getattr(self, key) and self.task not in tasks:
                raise UserError(f"dataset.{key} is for images with one class; dataset={self.name} has other labels")
        if self.stretch and self.resize is not None:
            raise UserError(f"dataset.stretch=true takes no dataset.resize; got {self.resize}")


@dataclass
class TwoMoonsConfig(DataConfig):
    """Schema of dataset=two_moons (Losch 2024, B.2)."""

    tasks = ("classification",)

    points: int = 2000
    test_points: int = 20000
    noise_radius: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dataset.points", self.points, least=2)
        check_range("dataset.test_points", self.test_points, least=2)
        check_range("dataset.noise_radius", self.noise_radius, least=0)


@dataclass
class Cifar100Config(PreparedConfig):
    """Schema of dataset=cifar100."""

    labels: str = "fine"  # or coarse: of the 20 super-classes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.labels", self.labels, ("fine", "coarse"))


@dataclass
class CifarPlusOneConfig(DataConfig):
    """Schema of dataset=cifar10plus1 (Losch 2024, sec. 3.3.2)."""

    tasks = ("classification",)

    made_of: list[str] = field(default_factory=list)  # the two sets
    extra: str = "rodent"  # super-class of CIFAR-100 that is added, by the thesis' name (Fig. A.3) or its own

    def __post_init__(self) -> None:
        super().__post_init__()
        super_class(self.extra)


@dataclass
class StreetScenesConfig(DataConfig):
    """Schema of dataset=street_scenes, which is generated in any number."""

    tasks = ("segmentation", "classification")

    images: int = 2000
    test_images: int = 500
    image_size: list[int] = field(default_factory=lambda: [128, 256])  # height and width

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dataset.images", self.images, least=1)
        check_range("dataset.test_images", self.test_images, least=1)
        if len(self.image_size) != 2 or min(self.image_size) < 16:
            raise UserError(f"dataset.image_size must be [height, width], at least 16; got {self.image_size}")
