"""Settings of eval=pixels. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.evals.config import EvalConfig


@dataclass
class PixelsConfig(EvalConfig):
    """Accuracy over pixels."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    _target_: str = "trust_exp.evals.pixels.suite.Pixels"
