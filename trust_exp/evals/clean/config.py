"""Settings of eval=clean. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.evals.config import EvalConfig, check_splits
from trust_exp.schema import moved


@dataclass
class CleanConfig(EvalConfig):
    """Accuracy on unchanged data."""

    of_sources: ClassVar[bool] = True

    _target_: str = moved("trust_exp.evals.clean.suite.Clean", before="trust_exp.evals.clean.Clean")
    splits: list[str] = field(default_factory=lambda: ["test"])

    def __post_init__(self) -> None:
        check_splits("eval.clean.splits", self.splits)
