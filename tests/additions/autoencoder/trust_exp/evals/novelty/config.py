"""Settings of eval=novelty. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.evals.config import EvalConfig


@dataclass
class NoveltyConfig(EvalConfig):
    """Whether scores tell other classes from one that is called normal."""

    needs: ClassVar[tuple[str, ...]] = ("scores",)

    _target_: str = "trust_exp.evals.novelty.suite.Novelty"
    normal: int = 0
