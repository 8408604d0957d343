"""Settings of ordinary training. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.schema import added_later

Measure = Literal["entropy", "svar", "vog"]


@dataclass
class StandardConfig(MethodConfig):
    """Cross-entropy training, which can also rank its samples by difficulty.

    The ranking changes no weight but is part of the identity: rankings are made during training, so a finished run
    without them is a different run.
    """

    _target_: str = "trust_exp.methods.standard.module.Standard"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    difficulty: list[str] = added_later(list)  # measures that rank the training samples: entropy, svar, vog
    vog_snapshots: int = added_later(10)  # points of the training, evenly spaced, whose gradients vog compares
    vog_per_class: bool = added_later(
        False
    )  # vog relative to the sample's class (Agarwal et al. 2022); ranks no classes

    def __post_init__(self) -> None:
        for measure in self.difficulty:
            check_choice("method.difficulty", measure, get_args(Measure))
        self.difficulty = sorted(set(self.difficulty))  # the order has no meaning and must not change the run's id
        check_range("method.vog_snapshots", self.vog_snapshots, least=2)
        if "vog" not in self.difficulty and (self.vog_snapshots != 10 or self.vog_per_class):
            raise UserError(
                "method.vog_snapshots and method.vog_per_class have no effect without vog in method.difficulty; "
                f"got method.difficulty={self.difficulty}"
            )
