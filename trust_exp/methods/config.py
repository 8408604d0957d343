"""Settings that the families of methods share. Imports no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range


@dataclass
class OptimizerConfig:
    """The optimiser and its step-wise decay."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9  # of sgd
    milestones: list[float] = field(default_factory=list)  # fractions of the training after which lr is decayed
    gamma: float = 0.1  # factor of each decay

    def __post_init__(self) -> None:
        check_choice("method.optimizer.name", self.name, ("adam", "adamw", "sgd"))
        check_range("method.optimizer.lr", self.lr, above=0)
        check_range("method.optimizer.weight_decay", self.weight_decay, least=0)
        check_range("method.optimizer.momentum", self.momentum, least=0, most=1)
        check_range("method.optimizer.gamma", self.gamma, above=0)
        if not all(0 < point < 1 for point in self.milestones) or self.milestones != sorted(self.milestones):
            raise UserError(
                "method.optimizer.milestones must be fractions of the training, in increasing order; "
                f"got {self.milestones}"
            )


@dataclass
class ScheduleConfig:
    """Polynomial way from ``start`` to the value that is scheduled (Losch 2024, Eq. B.14)."""

    start: float = MISSING
    power: float = MISSING

    def __post_init__(self) -> None:
        check_range("the power of a schedule", self.power, above=0)
