"""Settings of subset adversarial training, TRADES and single-step training. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.schema import added_later, outside_identity, reference

FAMILY = "trust_exp.methods.adversarial.module"

Norm = Literal["L2", "Linf"]
By = Literal["example", "class"]
Order = Literal["hardest", "easiest", "random"]
Measure = Literal["entropy", "svar", "vog"]
Weights = Literal["vanilla", "balanced", "increasing"]
Average = Literal["weighted", "plain"]
BatchNorm = Literal["joint", "split"]


def why_no_ranking(subset: Mapping[str, Any], source: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Why the run ``source`` has no ranking for a subset; empty if it has one.

    Args:
        subset: the node that names the source.
        source, run: checked configurations; the node is part of ``run``.
    """
    measure, name = subset["measure"], run["dataset"]["name"]
    if measure not in source["method"].get("difficulty", []):
        return f"it makes no ranking by {measure}; one with method=standard method.difficulty=[{measure}] does"
    if source["dataset"]["name"] != name:
        return f"it ranks dataset={source['dataset']['name']}; this is dataset={name}"
    return ""


@dataclass
class SubsetConfig:
    """A, the training samples that are attacked, by default all (Losch 2024, sec. 3.2.2)."""

    by: str = "example"  # unit of fraction and count: example (ESAT) or class (CSAT)
    fraction: float | None = None  # of the samples or classes served
    count: int | None = None
    classes: list[str] | None = None  # samples of these classes only, by name or number
    order: str = "random"  # which are attacked first; random: by the run's seed
    ranking: str | None = reference(why_not=why_no_ranking)  # a run with method.difficulty, or a ranking file
    measure: str = "entropy"  # one of the folder's rankings
    index_file: str | None = reference()  # exactly the samples listed here: .npy, or text with one number per line

    def __post_init__(self) -> None:
        check_choice("method.subset.by", self.by, get_args(By))
        check_choice("method.subset.order", self.order, get_args(Order))
        check_choice("method.subset.measure", self.measure, get_args(Measure))
        self._check_amount()
        self._check_order()

    def _check_order(self) -> None:
        if self.order != "random" and self.ranking is None:
            raise UserError(
                f"method.subset.order={self.order} needs method.subset.ranking=<a run with method.difficulty=[entropy] "
                "or a ranking file>; method.subset.order=random needs none"
            )
        if self.order == "random" and self.ranking is not None:
            raise UserError(
                f"method.subset.ranking={self.ranking} has no effect with method.subset.order=random; "
                "choose method.subset.order=hardest or easiest"
            )
        if self.order != "random" and self.fraction is None and self.count is None:
            raise UserError(
                f"method.subset.order={self.order} has no effect if all samples are attacked; give "
                "method.subset.fraction or method.subset.count"
            )
        if self.ranking is None and self.measure != "entropy":
            raise UserError(f"method.subset.measure={self.measure} has no effect without method.subset.ranking")

    def _check_amount(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(
                f"method.subset.fraction must be greater than 0 and at most 1; got {self.fraction:g}; to attack "
                "nothing, choose method=standard"
            )
        if self.count is not None and self.count < 1:
            raise UserError(
                f"method.subset.count must be at least 1; got {self.count}; to attack nothing, choose method=standard"
            )
        if self.classes is not None and not self.classes:
            raise UserError("method.subset.classes must name at least one class; got []")
        if self.fraction is not None and self.count is not None:
            raise UserError(
                "give one of method.subset.fraction and method.subset.count; "
                f"got fraction={self.fraction:g} and count={self.count}"
            )
        given = [key for key in ("fraction", "count", "classes", "ranking") if getattr(self, key) is not None]
        if self.index_file is not None and (given or self.by == "class"):
            named = " and ".join(f"method.subset.{key}" for key in given) or "method.subset.by=class"
            raise UserError(f"method.subset.index_file already names the whole subset; leave out {named}")


@dataclass
class PgdConfig:
    """Projected gradient ascent on the cross-entropy."""

    step_size: float | None = None  # None: 2.5 epsilon / steps
    steps: int = 7
    random_start: bool = False
    keep: str = "best"  # iterate by its loss, or last
    score_last: bool = True  # whether the last iterate may be the best; costs one more forward pass

    def __post_init__(self) -> None:
        check_range("method.attack.step_size", self.step_size, above=0)
        check_range("method.attack.steps", self.steps, least=1)
        check_choice("method.attack.keep", self.keep, ("best", "last"))
        if self.keep == "last" and not self.score_last:
            raise UserError("method.attack.score_last=false has no effect with method.attack.keep=last")


@dataclass
class StoppingConfig:
    """Keep the weights of the best robust accuracy on held-out samples."""

    split: str = added_later("auto")  # val; or test, whose other samples are then evaluated; auto: val if there is one
    samples: int = 1000  # at most; and at most half of a test set
    at: list[float] = field(default_factory=lambda: [0.08, 0.25, 0.51, 0.76, 1.0])  # fractions of the training
    version: str = "fast"  # of AutoAttack
    batch_size: int = outside_identity(500)
    seed: int = 90622  # for the choice of the samples

    def __post_init__(self) -> None:
        check_choice("method.stopping.split", self.split, ("auto", "val", "test"))
        check_range("method.stopping.samples", self.samples, least=1)
        check_choice("method.stopping.version", self.version, ("standard", "fast"))
        check_range("method.stopping.batch_size", self.batch_size, least=1)
        check_range("method.stopping.seed", self.seed, least=0)
        if not self.at or not all(0 < point <= 1 for point in self.at) or self.at != sorted(self.at):
            raise UserError(f"method.stopping.at must be fractions of the training, in increasing order; got {self.at}")


@dataclass
class EnsemblingConfig:
    """Temporal ensembling on A against robust overfitting (Dong et al. 2022; a question of Losch 2024, sec. 8.2.1)."""

    weight: float = 30.0  # of the squared distance to the running mean of a sample's predictions
    momentum: float = 0.9  # of that mean
    start: float = 0.45  # the weight grows between these fractions of the training
    end: float = 0.75

    def __post_init__(self) -> None:
        check_range("method.ensembling.weight", self.weight, above=0)
        check_range("method.ensembling.momentum", self.momentum, least=0, most=0.9999)
        check_range("method.ensembling.start", self.start, least=0)
        check_range("method.ensembling.end", self.end, above=self.start, most=1)


@dataclass
class AdversarialConfig(MethodConfig):
    """Settings shared by all methods of this family."""

    trains_for_a_radius: ClassVar[bool] = True

    norm: str = "L2"
    epsilon: float = MISSING  # radius in the data's own units
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    weights: str = "vanilla"  # of attacked samples relative to others (Losch 2024, sec. 3.2.2 and 3.3.4)
    average: str = "weighted"  # sum(w l) / sum(w), as released; plain: sum(w l) / B, Eq. 3.2
    batch_norm: str = "joint"  # one pass over the mixed batch, as released; split: each part has its own statistics
    stopping: StoppingConfig | None = None
    ensembling: EnsemblingConfig | None = added_later(None)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_choice("method.norm", self.norm, get_args(Norm))
        check_range("method.epsilon", self.epsilon)
        if not self.epsilon > 0:
            raise UserError(
                f"method.epsilon must be greater than 0; got {self.epsilon:g}; for none choose method=standard"
            )
        check_choice("method.weights", self.weights, get_args(Weights))
        check_choice("method.average", self.average, get_args(Average))
        check_choice("method.batch_norm", self.batch_norm, get_args(BatchNorm))


@dataclass
class SatConfig(AdversarialConfig):
    """Subset adversarial training with PGD (Losch 2024, ch. 3); on all samples: Madry et al. 2018."""

    _target_: str = f"{FAMILY}.SubsetAdversarialTraining"
    attack: PgdConfig = field(default_factory=PgdConfig)


@dataclass
class TradesAttackConfig:
    """Ascent on the divergence from the clean prediction."""

    step_size: float | None = None  # None: 2 epsilon / steps, the official one for L2
    steps: int = 10

    def __post_init__(self) -> None:
        check_range("method.attack.step_size", self.step_size, above=0)
        check_range("method.attack.steps", self.steps, least=1)


@dataclass
class TradesConfig(AdversarialConfig):
    """TRADES (Zhang et al. 2019) on a subset: the divergence on A, the cross-entropy on all clean samples."""

    _target_: str = f"{FAMILY}.Trades"
    beta: float = 6.0
    batch_norm: str = "split"  # as the official code
    attack: TradesAttackConfig = field(default_factory=TradesAttackConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.beta", self.beta, above=0)


@dataclass
class MonitorConfig:
    """Detection of catastrophic overfitting: PGD on a fixed batch of attacked samples."""

    every: int | None = None  # optimiser steps; None: an epoch
    steps: int = 10
    samples: int = 128  # at most

    def __post_init__(self) -> None:
        check_range("method.monitor.every", self.every, least=1)
        check_range("method.monitor.steps", self.steps, least=2)
        check_range("method.monitor.samples", self.samples, least=1)


@dataclass
class FastConfig(AdversarialConfig):
    """FGSM from a random start (Wong et al. 2020): one gradient step per sample."""

    _target_: str = f"{FAMILY}.FastAdversarialTraining"
    step_size: float | None = None  # None: 1.25 epsilon
    monitor: MonitorConfig = outside_identity(MonitorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.step_size", self.step_size, above=0)
