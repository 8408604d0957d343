"""Settings of prototypes for trained classifiers. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.schema import free, late

Tokens = Literal["all", "patches", "class"]
Init = Literal["abs_scaled", "nndsvda", "paper"]
Stop = Literal["update", "tenth"]
By = Literal["nmf", "semi_nmf", "k_means", "principal_directions", "random_features"]
Solver = Literal["lstsq", "cvxpy"]
Shares = Literal["sum", "paper", "abs", "energy"]


@dataclass
class ProtoNmfConfig(MethodConfig):
    """Prototypes of each class by NMF of its features, and the head as a sum of them (ProtoNMF, 2023)."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "trained")
    gives: ClassVar[tuple[str, ...]] = ("prototypes",)

    _target_: str = "trust_exp.methods.prototype.module.ProtoNmf"
    fit: str = free("closed_form")
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
    residual: str = late("sum")  # how prototypes share it: Eq. 8 with a guard; paper: without; or abs, energy
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
            check_choice(f"method.{key}", getattr(self, key), get_args(values))
        for key in ("prototypes", "steps", "inner", "restarts", "max_per_class"):
            check_range(f"method.{key}", getattr(self, key), least=1)
        check_range("method.tolerance", self.tolerance, least=0)
        for count in self.compare:
            check_range("method.compare", count, least=1)
        if len({*self.compare, self.prototypes}) <= len(self.compare):
            raise UserError(
                "method.compare must hold other numbers than method.prototypes, none twice; "
                f"got {self.compare} and {self.prototypes}"
            )
        if self.init == "nndsvda" and self.restarts > 1:
            raise UserError("method.init=nndsvda has a single start, whatever the seed; leave out method.restarts")
        idle = {"restarts": 1, "init": "abs_scaled", "inner": 4, "stop": "update"} if self.by != "nmf" else {}
        if self.by in ("k_means", "principal_directions", "random_features"):
            idle |= {"steps": 200, "tolerance": 1e-4}
        if changed := [f"method.{key}" for key, value in idle.items() if getattr(self, key) != value]:
            raise UserError(
                f"method.by={self.by} has no {' nor '.join(changed)}; leave out options that would change nothing"
            )


@dataclass
class ProtoPNetConfig(MethodConfig):
    """Prototypes that are patches of training images; training continues from a trained network (Chen et al. 2019)."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "trained")
    gives: ClassVar[tuple[str, ...]] = ("patches",)

    _target_: str = "trust_exp.methods.prototype.protopnet.ProtoPNetTraining"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # lr is the network's; no milestones
    per_class: int = 10  # prototypes
    width: int = 128  # of the features and prototypes
    warm: int = 5  # lengths of the stages, relative to each other; epochs, if they add up to fit.epochs
    joint: int = 10
    last: int = 20  # warm + cycles * (joint + last) is the whole training
    cycles: int = 3
    lr_new: float = 3e-3  # of the new layers and the prototypes
    lr_last: float = 1e-4
    decay_every: int = 5  # lengths of joint training after which optimizer.lr and lr_new are multiplied by gamma
    cluster: float = 0.8  # weights of the losses
    separation: float = 0.08
    others: float = 1e-4  # of connections to prototypes of other classes

    def __post_init__(self) -> None:
        for key in ("per_class", "width", "joint", "last", "cycles", "decay_every"):
            check_range(f"method.{key}", getattr(self, key), least=1)
        for key in ("warm", "cluster", "separation", "others"):
            check_range(f"method.{key}", getattr(self, key), least=0)
        for key in ("lr_new", "lr_last"):
            check_range(f"method.{key}", getattr(self, key), above=0)
        if self.optimizer.milestones:
            raise UserError(
                "method.optimizer.milestones has no effect here: method.decay_every sets when the learning rate falls"
            )
