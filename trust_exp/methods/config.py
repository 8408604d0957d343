"""Settings that the families of methods share. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import added_later, defaults, outside_identity

Name = Literal["adam", "adamw", "nadam", "sgd"]
Schedule = Literal["steps", "polynomial", "cosine", "exponential", "triangular"]

OF_SCHEDULE = {  # the fields that only some schedules read
    "milestones": ("steps",),
    "gamma": ("steps",),
    "power": ("polynomial",),
    "end": ("polynomial", "cosine", "exponential", "triangular"),
    "peak": ("triangular",),
    "warmup": ("steps", "polynomial", "cosine", "exponential"),  # a triangle rises by itself
}
OF_NAME = {"nesterov": ("sgd",), "betas": ("adam", "adamw", "nadam")}


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
    fit: str = outside_identity("gradient")  # or closed_form, or none


@dataclass
class OptimizerConfig:
    """The optimiser and its learning rate over the training; see ``trust_exp.methods.schedules`` for the formulas."""

    name: str = "adamw"
    lr: float = 1e-3  # the largest of the schedule
    weight_decay: float = 0.0
    momentum: float = 0.9  # of sgd
    milestones: list[float] = field(default_factory=list)  # fractions of the training after which lr is decayed
    gamma: float = 0.1  # factor of each decay
    schedule: str = added_later("steps")  # of lr: steps at milestones; polynomial, cosine, exponential, triangular
    warmup: float = added_later(0.0)  # fraction of the training in which lr rises linearly
    power: float = added_later(1.0)  # polynomial
    end: float = added_later(0.0)  # factor of lr at the end of the training; triangular: at its start, too
    peak: float = added_later(0.5)  # triangular: fraction of the training at which lr is reached
    nesterov: bool = added_later(False)  # sgd
    betas: list[float] = added_later(lambda: [0.9, 0.999])  # adam, adamw and nadam

    def __post_init__(self) -> None:
        check_choice("method.optimizer.name", self.name, get_args(Name))
        check_choice("method.optimizer.schedule", self.schedule, get_args(Schedule))
        check_range("method.optimizer.lr", self.lr, above=0)
        check_range("method.optimizer.weight_decay", self.weight_decay, least=0)
        check_range("method.optimizer.momentum", self.momentum, least=0, most=1)
        check_range("method.optimizer.gamma", self.gamma, above=0)
        check_range("method.optimizer.warmup", self.warmup, least=0, most=1)
        check_range("method.optimizer.power", self.power, above=0)
        check_range("method.optimizer.end", self.end, least=0)
        check_range("method.optimizer.peak", self.peak, above=0, most=1)
        if not all(0 < point < 1 for point in self.milestones) or self.milestones != sorted(self.milestones):
            raise UserError(
                "method.optimizer.milestones must be fractions of the training, in increasing order; "
                f"got {self.milestones}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"method.optimizer.betas must be two numbers in [0, 1); got {self.betas}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that do not go together, or that nothing would read."""
        self._refuse_idle("schedule", OF_SCHEDULE)
        self._refuse_idle("name", OF_NAME)
        if self.nesterov and not self.momentum:
            raise UserError("method.optimizer.nesterov=true needs method.optimizer.momentum greater than 0; got 0")
        if self.schedule == "exponential" and not self.end:
            raise UserError(
                "method.optimizer.schedule=exponential needs method.optimizer.end, the factor of lr that it ends with, "
                "such as 0.01; got 0"
            )
        if self.milestones and self.milestones[0] < self.warmup:
            raise UserError(
                "method.optimizer.milestones must not lie within method.optimizer.warmup; "
                f"got {self.milestones} and {self.warmup:g}"
            )

    def _refuse_idle(self, choice: str, owners: dict[str, tuple[str, ...]]) -> None:
        chosen, initial = getattr(self, choice), defaults(OptimizerConfig)
        idle = [key for key, of in owners.items() if chosen not in of and getattr(self, key) != initial[key]]
        if idle:
            unused = " and ".join(f"method.optimizer.{key}={_text(getattr(self, key))}" for key in idle)
            reset = " ".join(f"method.optimizer.{key}={_text(initial[key])}" for key in idle)
            raise UserError(
                f"{unused} {'means' if len(idle) == 1 else 'mean'} nothing with method.optimizer.{choice}={chosen}; "
                f"leave out what was given, or undo what a recipe gives: {reset}"
            )


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class ScheduleConfig:
    """Polynomial way from ``start`` to the value that is scheduled (Losch 2024, Eq. B.14)."""

    start: float = MISSING
    power: float = MISSING

    def __post_init__(self) -> None:
        check_range("the power of a schedule", self.power, above=0)
