"""Settings of CLL, GloRo and LMT. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig, ScheduleConfig

FAMILY = "trust_exp.methods.lipschitz_margin.module"


@dataclass
class LipschitzMarginConfig(MethodConfig):
    """Settings shared by all losses on a Lipschitz bound."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "lipschitz")
    trains_for_a_radius: ClassVar[bool] = True

    epsilon: float = MISSING  # L2 radius in the data's own units
    iterations: int = 1  # power iterations per step, from the vectors of the step before
    through_iterations: bool = False  # differentiate through the iterations, as the released code does
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_range("method.epsilon", self.epsilon, above=0)
        check_range("method.iterations", self.iterations, least=1)


@dataclass
class CllConfig(LipschitzMarginConfig):
    """Calibrated Lipschitz-margin training (Losch 2024, ch. 4)."""

    _target_: str = f"{FAMILY}.CalibratedLipschitzMargin"
    p: float | None = None  # Eq. 4.5; or err_quantile = 2p, as the released code calls it
    err_quantile: float | None = None
    slack_schedule: ScheduleConfig | None = None  # of p or err_quantile, whichever is given
    offset: float | None = None  # delta; None: epsilon
    one_sided: bool = False
    form: str = "multiclass"
    constants: str = "pairwise"
    detach: bool = True  # no gradient of cross-entropy with respect to K
    decay: float = 0.0  # lambda in lambda K^2
    k_schedule: ScheduleConfig | None = None  # factor on K in the loss; ends at 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p is not None and not 0 < self.p < 0.5:
            raise UserError(
                f"method.p must be in (0, 0.5); got {self.p:g}. p is half of what the released code calls err_quantile"
            )
        if self.err_quantile is not None and not 0 < self.err_quantile < 1:
            raise UserError(f"method.err_quantile must be in (0, 1); got {self.err_quantile:g}")
        if (self.p is None) == (self.err_quantile is None):
            raise UserError(
                "give one of method.p and method.err_quantile (= 2p, as the released code calls it) and set the other "
                f"to null; got p={self.p} and err_quantile={self.err_quantile}"
            )
        if self.slack_schedule is not None and not 0 < self.slack_schedule.start < (0.5 if self.p else 1):
            name, top = ("p", 0.5) if self.p else ("err_quantile", 1)
            raise UserError(
                f"method.slack_schedule.start is a value of method.{name}, so it must be in (0, {top}); "
                f"got {self.slack_schedule.start:g}"
            )
        check_range("method.offset", self.offset, least=0)
        check_range("method.decay", self.decay, least=0)
        check_choice("method.form", self.form, ("multiclass", "binary"))
        check_choice("method.constants", self.constants, ("pairwise", "per_logit"))
        if self.form == "binary" and self.constants != "pairwise":
            raise UserError("method.form=binary has one constant, so method.constants=per_logit means nothing with it")
        if self.k_schedule is not None:
            check_range("method.k_schedule.start", self.k_schedule.start, above=0)


@dataclass
class GloroConfig(LipschitzMarginConfig):
    """Globally robust networks (Leino et al. 2021)."""

    _target_: str = f"{FAMILY}.GloRo"
    epsilon_schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon_schedule is not None:
            check_range("method.epsilon_schedule.start", self.epsilon_schedule.start, least=0)


@dataclass
class LmtConfig(LipschitzMarginConfig):
    """Lipschitz-margin training (Tsuzuku et al. 2018)."""

    _target_: str = f"{FAMILY}.LipschitzMarginTraining"
