"""Settings of label smoothing. Imports no torch."""

from dataclasses import dataclass, field

from trust_exp.errors import check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class SmoothingConfig(MethodConfig):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016)."""

    _target_: str = "trust_exp.methods.smoothing.module.Smoothing"
    share: float = 0.1  # of the target's mass, for all classes alike
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_range("method.share", self.share, least=0, most=0.99)
