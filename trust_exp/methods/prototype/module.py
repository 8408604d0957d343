"""Prototypes for a trained classifier as a method: ``PrototypeSolver`` under Lightning's Trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from trust_exp.data.batch import DatasetInfo
from trust_exp.methods.base import ClosedForm
from trust_exp.methods.prototype.config import ProtoNmfConfig
from trust_exp.models.prototype_options import options_in
from trust_exp.models.prototype_solver import PrototypeSolver, unsolved
from trust_exp.models.prototypes import PrototypeModel


class ProtoNmf(ClosedForm):
    """ProtoNMF (2023): NMF of the training features of each class, and the head of the class in these prototypes.

    Args:
        model: a ``PrototypeModel``.
        info: what the data are.
        options: the values of ``ProtoNmfConfig``.
    """

    model: PrototypeModel

    def __init__(self, model: PrototypeModel, info: DatasetInfo, **options: Any) -> None:
        super().__init__(model, info)
        self.config = ProtoNmfConfig(name="protonmf", **options)
        self.measured: dict[str, dict[str, float]] = {}

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> PrototypeModel:
        return unsolved(model, info, options_in(options))

    def portions(self, rank: int, world: int) -> list[list[int]]:
        self.solver = PrototypeSolver(self.model, self.data, self.config)
        return self.solver.portions(rank, world)

    def begin(self, portions: Sequence[Sequence[int]]) -> None:
        self.solver.begin(portions)

    def solve(self, portion: Sequence[int]) -> dict[int, Any]:
        return self.solver.solve(portion)

    def keep(self, found: dict[int, Any]) -> None:
        self.solver.keep(found)
        self.measured = self.solver.measured

    def facts(self) -> dict[str, Any]:
        return {"tokens": vars(self.model.reader.layout), "prototypes": self.measured}
