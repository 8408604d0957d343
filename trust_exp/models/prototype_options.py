"""Options of prototypes by factorisation, shared by the method and the eval that solve them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import added_later

Tokens = Literal["all", "patches", "class"]
Init = Literal["abs_scaled", "nndsvda", "paper"]
Stop = Literal["update", "tenth"]
By = Literal["nmf", "semi_nmf", "k_means", "principal_directions", "random_features"]
Solver = Literal["lstsq", "cvxpy"]
Shares = Literal["sum", "paper", "abs", "energy"]


@dataclass
class PrototypeOptions:
    """Options of the prototypes of each class and of the head as a sum of them (ProtoNMF, 2023)."""

    node: ClassVar[str] = "eval.prototypes.solve"  # where a user sets them, for messages

    prototypes: int = 3  # of each class
    compare: list[int] = field(default_factory=lambda: [1, 5, 10])  # further numbers, shown side by side
    tokens: str = "all"  # for networks with a class token; patches: the head reads their mean, as in the paper
    by: str = "nmf"  # sets negative features to 0; semi_nmf keeps them; or another basis, for comparison
    init: str = "abs_scaled"  # or nndsvda, or as the paper's text
    steps: int = 200  # at most
    tolerance: float = 1e-4  # stop when an update lowers the error by less than this fraction of the first
    stop: str = "update"  # checks the squared error after each update; tenth: the error after every tenth
    inner: int = 4  # updates of a factor for one product with the features; the paper: 1
    restarts: int = 1
    head_solver: str = "lstsq"  # or cvxpy, as in the paper
    residual: str = added_later("sum")  # how prototypes share it: Eq. 8 with a guard; paper: without; or abs, energy
    max_per_class: int | None = None  # first images used of each class; None: all

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
            raise UserError(
                f"{self.node}.init=nndsvda has a single start, whatever the seed; leave out {self.node}.restarts"
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        idle = {"restarts": 1, "init": "abs_scaled", "inner": 4, "stop": "update"} if self.by != "nmf" else {}
        if self.by in ("k_means", "principal_directions", "random_features"):
            idle |= {"steps": 200, "tolerance": 1e-4}
        if changed := [f"{self.node}.{key}" for key, value in idle.items() if getattr(self, key) != value]:
            raise UserError(
                f"{self.node}.by={self.by} has no {' nor '.join(changed)}; leave out options that would change nothing"
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
