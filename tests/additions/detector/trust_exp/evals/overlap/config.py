"""Settings of eval=overlap. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.evals.config import EvalConfig


@dataclass
class OverlapConfig(EvalConfig):
    """How far boxes that are given and those that are right overlap."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    needs: ClassVar[tuple[str, ...]] = ("boxes",)

    _target_: str = "trust_exp.evals.overlap.suite.Overlap"
