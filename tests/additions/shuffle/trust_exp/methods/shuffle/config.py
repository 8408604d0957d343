"""Settings of a shuffle of features. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class ShuffleConfig(MethodConfig):
    """Cross-entropy of a network whose pixels lose their places."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    _target_: str = "trust_exp.methods.shuffle.module.Shuffle"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
