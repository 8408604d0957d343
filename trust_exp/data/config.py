"""What can be chosen about a data set, and what is known of one before it is loaded. No torch here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trust_exp.config import free
from trust_exp.errors import check_range


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded.

    ``shape`` is that of one sample, (C, H, W) or (D,); ``domain`` the range that an attack must stay in, or None.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    domain: tuple[float, float] | None


@dataclass
class AugmentConfig:
    """Random changes of training images, in this order: crop, flip, jitter, rotation (Losch 2024, Fig. 3.3, B.2)."""

    pad: int = 0  # pixels of zero padding on each side before a crop back to the size of the image
    flip: bool = False  # left and right, with probability 1/2
    jitter: float = 0.0  # brightness, contrast, saturation: factors in [1 - jitter, 1 + jitter]
    rotate: float = 0.0  # degrees to either side

    def __post_init__(self) -> None:
        check_range("dataset.augment.pad", self.pad, least=0)
        check_range("dataset.augment.jitter", self.jitter, least=0, most=1)
        check_range("dataset.augment.rotate", self.rotate, least=0, most=180)


@dataclass
class DataConfig:
    """Schema of conf/dataset. Fields marked ``free`` do not change what is trained."""

    _target_: str = MISSING
    name: str = MISSING
    batch_size: int = 128  # of one optimiser step, over all devices
    eval_batch_size: int = free(500)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    limit_train: int | None = None  # at most this many samples, the same number of each class
    limit_test: int | None = None
    keep_on_device: bool = free(True)  # in the accelerator's memory if it fits

    def __post_init__(self) -> None:
        for key in ("batch_size", "eval_batch_size", "limit_train", "limit_test"):
            check_range(f"dataset.{key}", getattr(self, key), least=1)


@dataclass
class TwoMoonsConfig(DataConfig):
    """Schema of dataset=two_moons (Losch 2024, B.2)."""

    points: int = 2000
    test_points: int = 20000
    noise_radius: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dataset.points", self.points, least=2)
        check_range("dataset.test_points", self.test_points, least=2)
        check_range("dataset.noise_radius", self.noise_radius, least=0)
