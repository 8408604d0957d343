"""Settings of one-class anomaly detection. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.errors import check_range
from trust_exp.methods.config import MethodConfig
from trust_exp.schema import outside_identity


@dataclass
class MemoryConfig(MethodConfig):
    """Fields of the methods that keep what normal features are like; nothing is trained by gradients."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    needs: ClassVar[tuple[str, ...]] = ("trained",)
    gives: ClassVar[tuple[str, ...]] = ("scores",)

    fit: str = outside_identity("closed_form")


@dataclass
class NearestConfig(MemoryConfig):
    """The mean distance to the nearest normal samples, of pixels or of a network's pooled features."""

    _target_: str = "trust_exp.methods.anomaly.module.Nearest"
    neighbours: int = 1

    def __post_init__(self) -> None:
        check_range("method.neighbours", self.neighbours, least=1)


@dataclass
class PcaConfig(MemoryConfig):
    """The squared distance to the subspace in which normal samples vary most."""

    _target_: str = "trust_exp.methods.anomaly.module.Pca"
    directions: int = 32

    def __post_init__(self) -> None:
        check_range("method.directions", self.directions, least=1)
