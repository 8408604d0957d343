"""Settings of a segmentation network of two convolutions. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.models.config import ModelConfig


@dataclass
class TwoConvsConfig(ModelConfig):
    """Two convolutions: a class for each pixel."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    _target_: str = "trust_exp.models.two_convs.net.two_convs"
    width: int = 8
