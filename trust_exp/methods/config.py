"""Settings that the families of methods share. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import free


@dataclass
class MethodConfig:
    """Options and facts that the schema of every method has.

    ``needs`` and ``gives`` are names: "logits", "lipschitz" (layers with a known constant) and so on of the model,
    "trained" weights; a method that gives "network" brings its own and takes no model (docs/extending.md).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    needs: ClassVar[tuple[str, ...]] = ()  # of the model
    gives: ClassVar[tuple[str, ...]] = ()  # besides what the model gives
    trains_for_a_radius: ClassVar[bool] = False  # method.epsilon in method.norm (L2 if it has none): attacks take it

    _target_: str = MISSING
    name: str = MISSING
    fit: str = free("gradient")  # or closed_form, or none


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
