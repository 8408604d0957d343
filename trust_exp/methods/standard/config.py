"""Settings of ordinary training. Imports no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trust_exp.config import free
from trust_exp.methods.config import OptimizerConfig


@dataclass
class StandardConfig:
    """Cross-entropy, nothing else."""

    _target_: str = "trust_exp.methods.standard.module.Standard"
    name: str = MISSING
    fit: str = free("gradient")
    tasks: list[str] = free(lambda: ["classification"])  # kinds of labels that it can learn from
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
