"""What can be chosen about a data set, and what is known of one before it is loaded. No torch here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trust_exp.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded.

    ``shape`` is that of one sample, (C, H, W) or (D,); ``domain`` the range that an attack must stay in, or None.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    domain: tuple[float, float] | None


def _check_at_least(key: str, value: float | None, minimum: float) -> None:
    if value is not None and not value >= minimum:
        raise UserError(f"dataset.{key} must be at least {minimum}; got {value}")


def _check_between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"dataset.{key} must be in [{low}, {high}]; got {value}")


@dataclass
class AugmentConfig:
    """Random changes of training images, in this order: crop, flip, jitter, rotation (Losch 2024, Fig. 3.3, B.2)."""

    pad: int = 0  # pixels of zero padding on each side before a crop back to the size of the image
    flip: bool = False  # left and right, with probability 1/2
    jitter: float = 0.0  # brightness, contrast, saturation: factors in [1 - jitter, 1 + jitter]
    rotate: float = 0.0  # degrees to either side

    def __post_init__(self) -> None:
        _check_at_least("augment.pad", self.pad, 0)
        _check_between("augment.jitter", self.jitter, 0, 1)
        _check_between("augment.rotate", self.rotate, 0, 180)


@dataclass
class DataConfig:
    """Schema of conf/dataset. Fields marked ``identity: False`` do not change what is trained."""

    _target_: str = MISSING
    name: str = MISSING
    batch_size: int = 128  # of one optimiser step, over all devices
    eval_batch_size: int = field(default=500, metadata={"identity": False})
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    limit_train: int | None = None  # at most this many samples, the same number of each class
    limit_test: int | None = None
    keep_on_device: bool = field(default=True, metadata={"identity": False})  # in the accelerator's memory if it fits

    def __post_init__(self) -> None:
        for key in ("batch_size", "eval_batch_size", "limit_train", "limit_test"):
            _check_at_least(key, getattr(self, key), 1)


@dataclass
class TwoMoonsConfig(DataConfig):
    """Schema of dataset=two_moons (Losch 2024, B.2)."""

    points: int = 2000
    test_points: int = 20000
    noise_radius: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least("points", self.points, 2)
        _check_at_least("test_points", self.test_points, 2)
        _check_at_least("noise_radius", self.noise_radius, 0)
