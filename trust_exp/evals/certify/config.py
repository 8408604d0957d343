"""Settings of eval=certify. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_range
from trust_exp.evals.config import EvalConfig, check_splits
from trust_exp.schema import added_later, moved


@dataclass
class CertifyConfig(EvalConfig):
    """Certified robust accuracy (CRA), the Lipschitz constant and how tight it is."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "lipschitz")
    gives: ClassVar[tuple[str, ...]] = ("certificates",)

    _target_: str = moved("trust_exp.evals.certify.suite.Certify", before="trust_exp.evals.certify.Certify")
    splits: list[str] = field(default_factory=lambda: ["test"])
    radii: list[float] = MISSING  # L2, in the data's own units
    per_class: bool = True
    tightness_pairs: int = 4000  # 0: no search
    tightness_steps: int = 1000
    gap_steps: int = added_later(500)  # power iterations of the estimate; few make certify/bound_gap larger

    def __post_init__(self) -> None:
        check_splits("eval.certify.splits", self.splits)
        for radius in self.radii:
            check_range("eval.certify.radii", radius, least=0)
        if len({f"{radius:.3g}" for radius in self.radii}) < len(self.radii):
            raise UserError(f"eval.certify.radii must differ in their first three digits; got {self.radii}")
        check_range("eval.certify.tightness_pairs", self.tightness_pairs, least=0)
        check_range("eval.certify.tightness_steps", self.tightness_steps, least=1)
        check_range("eval.certify.gap_steps", self.gap_steps, least=1)
