"""Prototypes for a trained classifier, class by class; the maths is in trust_exp.explain."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.explain.bases import k_means, principal_directions, random_features
from trust_exp.explain.linear_head import (
    augmented,
    coefficients,
    matched_cosine,
    residual,
    shift_of_augmentation,
    unit_rows,
)
from trust_exp.explain.nmf import Factors, check_matrix, nmf_many, semi_nmf
from trust_exp.methods.base import ClosedForm
from trust_exp.methods.prototype.config import ProtoNmfConfig
from trust_exp.models.prototypes import PrototypeModel, Prototypes
from trust_exp.models.tokens import TokenReader


class ProtoNmf(ClosedForm):
    """ProtoNMF (2023): NMF of the training features of each class, and the head of the class in these prototypes.

    One pass over the images, class by class: memory holds the features of at most as many classes as there are threads.
    The classes are divided among the processes.

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
        reader = TokenReader(model, info.shape, options["tokens"])
        counts = [options["prototypes"], *options["compare"]]
        return PrototypeModel(reader, counts, signed=options["by"] != "nmf", shares=options["residual"])

    # --- the pass --------------------------------------------------------------------------------------------------

    def tasks(self, rank: int, world: int) -> list[list[int]]:
        """The classes of a process, in groups of as many as there are threads."""
        together = torch.get_num_threads() if self.device.type == "cpu" else 1
        mine = list(range(len(self.info.classes)))[rank::world]
        return [mine[at : at + together] for at in range(0, len(mine), together)]

    def begin(self, tasks: Sequence[Sequence[int]]) -> None:
        labels, reader = self.data.served_labels("train"), self.model.reader
        most = self.config.max_per_class
        rows = [(labels == label).nonzero().squeeze(1)[:most] for task in tasks for label in task]
        for label, own in zip((label for task in tasks for label in task), rows, strict=True):
            if not len(own):
                name = self.info.classes[label]
                raise UserError(f"class {name} of dataset={self.info.name} has no training image to make prototypes of")
        self.features = self.data.encoded("train", rows, lambda images: reader.material(reader(images)[0]))

    def solve(self, task: Sequence[int]) -> dict[int, Any]:
        """For each class and number of prototypes the parts of ``Prototypes``, and their measures."""
        features, energy = {}, {}
        for label in task:
            features[label], energy[label] = self._checked(label, next(self.features).flatten(0, 1))
        solved: dict[int, dict[int, Any]] = {label: {} for label in task}
        for count in self.model.counts:
            for label, factors in zip(task, self._factorise(features, count), strict=True):
                solved[label][count] = self._in_prototypes(label, factors, features[label], energy[label])
        return solved

    def _checked(self, label: int, features: Tensor) -> tuple[Tensor, float]:
        """All tokens of a class's training images, float32 [n T, D], without negative values if NMF takes them.

        And the fraction of their energy that was negative and set to 0.
        """
        whole = _energy(features)
        if self.config.by == "nmf":
            features.clamp_(min=0)
        try:
            check_matrix(features, max(self.model.counts), signed=True)
        except ValueError as error:
            raise UserError(
                f"the features of class {self.info.classes[label]} give no prototypes: {error}; see method.prototypes "
                "and method.compare"
            ) from error
        return features, 1 - _energy(features) / whole

    def _factorise(self, features: Mapping[int, Tensor], count: int) -> Sequence[Factors]:
        config, seed = self.config, self.data.seed
        stop: Any = {"steps": config.steps, "tolerance": config.tolerance}
        if config.by == "nmf":
            how: Any = {"init": config.init, "stop": config.stop, "inner": config.inner, "restarts": config.restarts}
            return nmf_many(list(features.values()), count, names=list(features), seed=seed, **stop, **how)
        if config.by == "semi_nmf":
            return [semi_nmf(values, count, seed=seed, name=label, **stop) for label, values in features.items()]
        if config.by == "principal_directions":
            return [principal_directions(values, count) for values in features.values()]
        make = k_means if config.by == "k_means" else random_features
        return [make(values, count, seed=seed, name=label) for label, values in features.items()]

    def _in_prototypes(
        self, label: int, factors: Factors, features: Tensor, negative: float
    ) -> tuple[list[Tensor], dict[str, float]]:
        """The head of a class in its prototypes, the one with the largest coefficient first."""
        head, basis = self.model.reader.weight[label : label + 1], unit_rows(factors.basis)[None]
        weights = coefficients(head, basis, self.config.head_solver)  # type: ignore[arg-type]  # checked by the schema
        order = weights[0].argsort(descending=True)
        basis, weights = basis[:, order], weights[:, order]
        rest = residual(head, basis, weights)
        moved, guarded = augmented(basis, weights, rest, self.model.shares)
        others = [matched_cosine(factors.basis, other) for other in factors.bases]
        measures = {
            "feature_error": factors.error,
            "relative_feature_error": factors.error / _energy(features) ** 0.5,
            "head_error": float(rest.norm()),
            "relative_head_error": float(rest.norm() / head.norm()),
            "steps": float(factors.steps),
            "restart_spread": max(factors.errors) - min(factors.errors),
            "stability": (sum(others) - 1) / (len(others) - 1) if len(others) > 1 else 1.0,  # over the restarts
            "negative_energy": negative,
            "augmentation_shift": shift_of_augmentation(features, basis[0], moved[0]),
            "cancelled": float(guarded),  # Eq. 8 would have turned or blown up the prototypes
        }
        return [value.cpu() for value in (basis, weights, rest)], measures

    # --- results ------------------------------------------------------------------------------------------------

    def keep(self, found: dict[int, Any]) -> None:
        for count in self.model.counts:
            for label, counts in found.items():
                self.model.put(count, label, Prototypes(*counts[count][0]))
            measures = [counts[count][1] for counts in found.values()]
            self.measured[str(count)] = {
                name: sum(each[name] for each in measures) / len(measures) for name in measures[0]
            }

    def facts(self) -> dict[str, Any]:
        return {"tokens": vars(self.model.reader.layout), "prototypes": self.measured}  # means over the classes


def _energy(features: Tensor) -> float:
    """The sum of squares, row by row: all squares at once would take as much memory again."""
    return float(features.norm(dim=1).double().square().sum())
