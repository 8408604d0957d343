"""Settings of a detector of one box. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class OneBoxConfig(MethodConfig):
    """Regresses the corners of the one box of an image."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    gives: ClassVar[tuple[str, ...]] = ("network", "boxes")

    _target_: str = "trust_exp.methods.one_box.module.OneBox"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
