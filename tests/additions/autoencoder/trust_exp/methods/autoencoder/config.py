"""Settings of a one-class autoencoder. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class AutoencoderConfig(MethodConfig):
    """Reconstructs images of one class."""

    gives: ClassVar[tuple[str, ...]] = ("network", "scores")

    _target_: str = "trust_exp.methods.autoencoder.module.Autoencoder"
    normal: int = 0  # the class that it learns
    width: int = 8
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
