"""Settings of the model of one convolution. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.errors import check_range
from trust_exp.models.config import ModelConfig


@dataclass
class RidgeConfig(ModelConfig):
    """One convolution, ReLU, mean over the places, one linear layer."""

    gives: ClassVar[tuple[str, ...]] = ("logits", "lipschitz")  # all of its layers have a known constant

    _target_: str = "trust_exp.models.ridge.net.ridge"
    width: int = 16

    def __post_init__(self) -> None:
        check_range("model.width", self.width, least=1)
