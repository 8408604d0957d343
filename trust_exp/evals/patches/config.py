"""Settings of eval=patches. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.errors import check_range
from trust_exp.evals.config import EvalConfig
from trust_exp.schema import moved


@dataclass
class PatchesConfig(EvalConfig):
    """Prototypes that are patches, compared with prototypes from NMF of the same features."""

    needs: ClassVar[tuple[str, ...]] = ("patches",)

    _target_: str = moved("trust_exp.evals.patches.suite.PatchSuite", before="trust_exp.evals.patches.PatchSuite")
    steps: int = 200  # of NMF, at most
    pictures: int = 10  # of the first so many classes; 0: none
    shown: int = 3  # prototypes of NMF in pictures
    deletion: int = 200  # the first so many test images, whose important places are deleted and inserted; 0: none

    def __post_init__(self) -> None:
        for key in ("steps", "shown"):
            check_range(f"eval.patches.{key}", getattr(self, key), least=1)
        for key in ("pictures", "deletion"):
            check_range(f"eval.patches.{key}", getattr(self, key), least=0)
