"""Settings of eval=anomaly. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.errors import UserError, check_range
from trust_exp.evals.config import EvalConfig


@dataclass
class AnomalyConfig(EvalConfig):
    """How well scores tell anomalies from normal samples, and defective pixels from others."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    needs: ClassVar[tuple[str, ...]] = ("scores",)

    _target_: str = "trust_exp.evals.anomaly.suite.Anomaly"
    false_alarms: float = 0.05  # of the held-out normal samples, at the threshold
    pictures: int = 8  # of the highest and of the lowest scores; 0: none
    pasted: int = 100  # normal test images for each model with something pasted into, which maps are to find; 0: none

    def __post_init__(self) -> None:
        check_range("eval.anomaly.pictures", self.pictures, least=0)
        check_range("eval.anomaly.pasted", self.pasted, least=0)
        if not 0 < self.false_alarms < 1:
            raise UserError(f"eval.anomaly.false_alarms must be between 0 and 1; got {self.false_alarms:g}")
