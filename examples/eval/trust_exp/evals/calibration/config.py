"""Settings of eval=calibration. Imports no torch."""

from dataclasses import dataclass

from trust_exp.errors import check_range
from trust_exp.evals.config import EvalConfig


@dataclass
class CalibrationConfig(EvalConfig):
    """How far confidence and accuracy are apart."""

    _target_: str = "trust_exp.evals.calibration.suite.Calibration"
    bins: int = 15

    def __post_init__(self) -> None:
        check_range("eval.calibration.bins", self.bins, least=1)
