"""Settings of a segmenter. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class SegmenterConfig(MethodConfig):
    """Cross-entropy of each pixel."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    needs: ClassVar[tuple[str, ...]] = ("logits",)

    _target_: str = "trust_exp.methods.segmenter.module.Segmenter"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
