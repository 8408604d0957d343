"""Settings of eval=saliency. Imports no torch."""

from dataclasses import dataclass

from trust_exp.errors import check_range
from trust_exp.evals.config import EvalConfig


@dataclass
class SaliencyConfig(EvalConfig):
    """Whether the pixels that gradient times input points at matter."""

    _target_: str = "trust_exp.evals.saliency.suite.Saliency"
    samples: int = 50  # the first so many test images

    def __post_init__(self) -> None:
        check_range("eval.saliency.samples", self.samples, least=1)
