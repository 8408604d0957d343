"""Settings of eval=prototypes. Imports no torch."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trust_exp.errors import UserError, check_range
from trust_exp.evals.config import EvalConfig, check_splits
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.schema import added_later, moved

HAS_ITS_OWN = "eval.prototypes.solve is for networks without prototypes; this one has its own, so leave it out"


@dataclass
class PrototypesConfig(EvalConfig):
    """How much of a network's decision its prototypes carry; those of a plain classifier are solved first."""

    _target_: str = moved(
        "trust_exp.evals.prototypes.suite.PrototypeSuite", before="trust_exp.evals.prototypes.PrototypeSuite"
    )
    splits: list[str] = field(default_factory=lambda: ["test"])
    pictures: int = 10  # of the first so many classes; 0: none
    classes: list[str] = added_later(list)  # that have pictures; none: the first ones
    images: int = 100  # of a class, that are looked through for its pictures
    deletion: int = 200  # the first so many images, whose important places are deleted and inserted; 0: none
    drop: list[str] = added_later(list)  # prototypes that contribute nothing, such as ship:2
    drop_in: list[int] = added_later(list)  # numbers of the images they do so in; none: all
    solve: PrototypeOptions = added_later(PrototypeOptions)  # of a network without prototypes

    def __post_init__(self) -> None:
        if self.drop_in and not self.drop:
            raise UserError(
                "eval.prototypes.drop_in names images; give eval.prototypes.drop too, the prototypes to drop"
            )
        check_splits("eval.prototypes.splits", self.splits)
        check_range("eval.prototypes.pictures", self.pictures, least=0)
        check_range("eval.prototypes.images", self.images, least=1)
        check_range("eval.prototypes.deletion", self.deletion, least=0)

    @classmethod
    def why_not(cls, values: Mapping[str, Any], given: Collection[str]) -> str:
        asked = values.get("solve", {}) not in ({}, asdict(PrototypeOptions()))
        return HAS_ITS_OWN if asked and "prototypes" in given else ""
