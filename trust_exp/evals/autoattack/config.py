"""Settings of eval=autoattack. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.evals.config import EvalConfig
from trust_exp.schema import added_later, moved


@dataclass
class AutoAttackConfig(EvalConfig):
    """Accuracy under AutoAttack."""

    after: ClassVar[tuple[str, ...]] = ("certificates",)

    _target_: str = moved(
        "trust_exp.evals.autoattack.suite.AutoAttackSuite", before="trust_exp.evals.autoattack.AutoAttackSuite"
    )
    norm: str = "L2"
    epsilon: float = MISSING  # in the data's own units
    version: str = "standard"  # or fast: its two APGD attacks
    steps: int = added_later(100)  # of its APGD attacks; fewer only to see that it runs
    samples: int | None = None  # the first so many test images; None: all
    batch_size: int = 500  # it takes part in the official library's random draws
    seed: int = 0
    implementation: str = "own"  # the package's attacks, or official: the library
    skip_certified: bool = added_later(False)  # do not attack images with certificates beyond epsilon; L2 only

    def __post_init__(self) -> None:
        check_choice("eval.autoattack.norm", self.norm, ("L2", "Linf"))
        check_choice("eval.autoattack.version", self.version, ("standard", "fast"))
        check_range("eval.autoattack.epsilon", self.epsilon, least=0)
        check_range("eval.autoattack.steps", self.steps, least=1)
        check_range("eval.autoattack.samples", self.samples, least=1)
        check_range("eval.autoattack.batch_size", self.batch_size, least=1)
        check_choice("eval.autoattack.implementation", self.implementation, ("own", "official"))
        if self.skip_certified and self.norm != "L2":
            raise UserError(
                f"eval.autoattack.skip_certified=true needs eval.autoattack.norm=L2, as certificates are for L2; "
                f"got {self.norm}"
            )
