"""Options of prototypes by factorisation, shared by the method and the eval that solve them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import late

Tokens = Literal["all", "patches", "class"]
Init = Literal["abs_scaled", "nndsvda", "paper"]
Stop = Literal["update", "tenth"]
By = Literal["nmf", "semi_nmf", "k_means", "principal_directions", "random_features"]
Solver = Literal["lstsq", "cvxpy"]
Shares = Literal["sum", "paper", "abs", "energy"]


@dataclass
class PrototypeOptions:
    """How prototypes of each class are found in its features, and the head is written in them (ProtoNMF, 2023)."""

    node: ClassVar[str] = "eval.prototypes.solve"  # where a user sets them, for messages

    prototypes: int = 3  # of each class
    compare: list[int] = field(default_factory=lambda: [1, 5, 10])  # further numbers, to be shown side by side
    tokens: str = "all"  # of a network with a class token; patches: the head reads their mean, as in the paper
    by: str = "nmf"  # negative features are 0 for it; semi_nmf takes them; or another basis, for comparison
    init: str = "abs_scaled"  # or nndsvda, or as the paper's text
    steps: int = 200  # at most
    tolerance: float = 1e-4  # part of the first error by which an update has to lower it
    stop: str = "update"  # looked at after each, of the squared error; tenth: after every tenth, of the error
    inner: int = 4  # updates of a factor for one product with the features; the paper: 1
    restarts: int = 1
    head_solver: str = "lstsq"  # or cvxpy, as the paper
    residual: str = late("sum")  # how prototypes take it over: Eq. 8 with a guard; paper: without; or abs, energy
    max_per_class: int | None = None  # the first so many images; None: all

    def __post_init__(self) -> None:
        for key, values in (
            ("tokens", Tokens),
            ("by", By),
            ("init", Init),
            ("stop", Stop),
            ("head_solver", Solver),
            ("residual", Shares),
        ):
            check_choice(f"{self.node}.{key}", getattr(self, key), get_args(values))
        for key in ("prototypes", "steps", "inner", "restarts", "max_per_class"):
            check_range(f"{self.node}.{key}", getattr(self, key), least=1)
        check_range(f"{self.node}.tolerance", self.tolerance, least=0)
        for count in self.compare:
            check_range(f"{self.node}.compare", count, least=1)
        if len({*self.compare}) < len(self.compare):
            raise UserError(f"{self.node}.compare must name each number once; got {self.compare}")
        if self.init == "nndsvda" and self.restarts > 1:
            raise UserError(f"{self.node}.init=nndsvda is one start, whatever the seed; leave out {self.node}.restarts")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        idle = {"restarts": 1, "init": "abs_scaled", "inner": 4, "stop": "update"} if self.by != "nmf" else {}
        if self.by in ("k_means", "principal_directions", "random_features"):
            idle |= {"steps": 200, "tolerance": 1e-4}
        if changed := [f"{self.node}.{key}" for key, value in idle.items() if getattr(self, key) != value]:
            raise UserError(
                f"{self.node}.by={self.by} has no {' nor '.join(changed)}; leave out what would change nothing"
            )

    @property
    def counts(self) -> list[int]:
        """All numbers of prototypes of a class, each once: the one that is computed with, and those beside it."""
        return [self.prototypes, *(count for count in self.compare if count != self.prototypes)]


def options_in(node: Mapping[str, Any]) -> PrototypeOptions:
    """The options among the checked values of a node; one that came after the node was stored has its default."""
    return PrototypeOptions(
        **{entry.name: node[entry.name] for entry in fields(PrototypeOptions) if entry.name in node}
    )
