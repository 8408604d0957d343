"""Settings of a method with a second data set. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.schema import added_later


@dataclass
class PairedConfig(MethodConfig):
    """Cross-entropy weighted by the classes of a second data set."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    _target_: str = "trust_exp.methods.paired.module.Paired"
    concepts: Any = added_later(None)  # the second data set
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
