"""The base of all schemas of evals. Imports no torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice
from trust_exp.schema import added_later

SPLITS = ("train", "val", "test")


@dataclass
class EvalConfig:
    """Options and facts that the schema of every eval has.

    ``needs`` are names of what the network or the method gives, such as "logits"; ``gives`` and ``after`` name
    outcomes: an eval comes after those that give what it can use (docs/extending.md).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    needs: ClassVar[tuple[str, ...]] = ("logits",)
    gives: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    of_sources: ClassVar[bool] = False  # also asked of runs that are trained for others to build on

    _target_: str = MISSING
    data: Any = added_later(None)  # data of its own: dataset@eval.<name>.data=<a data set>; None: those of the run

    @classmethod
    def why_not(cls, values: Mapping[str, Any], given: Collection[str]) -> str:
        """Why an eval with these values cannot be asked of a run that gives ``given``; empty if it can."""
        return ""


def check_splits(key: str, splits: list[str]) -> None:
    """Raise UserError unless ``splits`` are one or more different splits."""
    for split in splits:
        check_choice(key, split, SPLITS)
    if not splits or len(set(splits)) < len(splits):
        raise UserError(f"{key} must name one or more different splits; got {splits}")
