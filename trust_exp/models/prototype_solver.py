"""Solves prototypes for a trained classifier, class by class; the maths is in trust_exp.explain."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.explain.bases import k_means, principal_directions, random_features
from trust_exp.explain.factorisation import Factors, check_matrix, nmf_many, semi_nmf
from trust_exp.explain.linear_head import (
    augmented,
    coefficients,
    matched_cosine,
    residual,
    shift_of_augmentation,
    unit_rows,
)
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.models.prototypes import PrototypeModel, Prototypes
from trust_exp.models.tokens import TokenReader

Found = dict[int, Any]  # class -> number of prototypes -> the parts of ``Prototypes``, and their measures


class TrainingImages(Protocol):
    """The part of a data module that the solver uses."""

    seed: int

    @property
    def info(self) -> Any: ...

    def served_labels(self, split: Any) -> Tensor: ...

    def encoded(self, split: Any, groups: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Iterator[Tensor]: ...


def unsolved(network: nn.Module, info: Any, options: PrototypeOptions) -> PrototypeModel:
    """A network with prototypes that are all 0 yet.

    Args:
        network: a trained classifier, or one that explains it.
        info: the ``DatasetInfo`` of the data.

    Raises:
        UserError: if its logits are no linear head of tokens, or it has other classes than the data.
    """
    reader = TokenReader(network, info.shape, options.tokens)  # type: ignore[arg-type]  # checked by the schema
    reader.check_classes(info)
    shares: Any = options.residual
    return PrototypeModel(reader, options.counts, signed=options.by != "nmf", shares=shares)


class PrototypeSolver:
    """For each class the NMF of the features of its training images, and its head in these prototypes.

    One pass over the images, class by class: no more than the features of as many classes as there are threads are in
    memory. Processes take turns with the classes.

    Args:
        model: gets the prototypes.
        data: their images are served as ``train``.

    Source: ProtoNMF (2023).
    """

    def __init__(self, model: PrototypeModel, data: TrainingImages, options: PrototypeOptions) -> None:
        self.model, self.data, self.options = model, data, options
        self.measured: dict[str, dict[str, float]] = {}  # number of prototypes -> measure -> mean over the classes

    def portions(self, rank: int, world: int) -> list[list[int]]:
        """The classes of a process, as many together as there are threads."""
        together = torch.get_num_threads() if self.model.reader.weight.device.type == "cpu" else 1
        mine = list(range(len(self.model.reader.weight)))[rank::world]
        return [mine[at : at + together] for at in range(0, len(mine), together)]

    def begin(self, portions: Sequence[Sequence[int]]) -> None:
        """Called before the first portion is solved, with all of them in order.

        Raises:
            UserError: if a class has no image.
        """
        labels, reader = self.data.served_labels("train"), self.model.reader
        most = self.options.max_per_class
        rows = [(labels == label).nonzero().squeeze(1)[:most] for portion in portions for label in portion]
        for label, own in zip((label for portion in portions for label in portion), rows, strict=True):
            if not len(own):
                info = self.data.info
                raise UserError(
                    f"class {info.classes[label]} of dataset={info.name} has no training image to make prototypes of"
                )
        self.features = self.data.encoded("train", rows, lambda images: reader.material(reader(images)[0]))

    @torch.no_grad()
    def solve(self, portion: Sequence[int]) -> Found:
        """For each class and number of prototypes the parts of ``Prototypes``, and their measures."""
        features, energy = {}, {}
        for label in portion:
            features[label], energy[label] = self._checked(label, next(self.features).flatten(0, 1))
        found: Found = {label: {} for label in portion}
        for count in self.model.counts:
            for label, factors in zip(portion, self._factorise(features, count), strict=True):
                found[label][count] = self._in_prototypes(label, factors, features[label], energy[label])
        return found

    def keep(self, found: Found) -> None:
        """Put what all portions of all processes gave into the model."""
        found = dict(sorted(found.items()))
        for count in self.model.counts:
            for label, counts in found.items():
                self.model.put(count, label, Prototypes(*counts[count][0]))
            measures = [counts[count][1] for counts in found.values()]
            self.measured[str(count)] = {
                name: sum(one[name] for one in measures) / len(measures) for name in measures[0]
            }

    def solve_all(self, rank: int, world: int, track: Callable[[Iterable[Any], str], Iterable[Any]]) -> Found:
        """The results of a process's portions, one after the other.

        Args:
            track: shows the progress over what it is given.
        """
        portions = self.portions(rank, world)
        self.begin(portions)
        found: Found = {}
        for portion in track(portions, "prototypes of classes"):
            found.update(self.solve(portion))
        return found

    # --- one class -------------------------------------------------------------------------------------------------

    def _checked(self, label: int, features: Tensor) -> tuple[Tensor, float]:
        """All tokens of a class's training images as prototypes are made of them, float32 [n T, D].

        And the energy of what was set to 0 for that, as a part of all.
        """
        whole = _energy(features)
        if self.options.by == "nmf":
            features.clamp_(min=0)
        try:
            check_matrix(features, max(self.model.counts), signed=True)
        except ValueError as error:
            node = self.options.node
            raise UserError(
                f"the features of class {self.data.info.classes[label]} give no prototypes: {error}; "
                f"see {node}.prototypes and {node}.compare"
            ) from error
        return features, 1 - _energy(features) / whole

    def _factorise(self, features: Mapping[int, Tensor], count: int) -> Sequence[Factors]:
        options, seed = self.options, self.data.seed
        stop: Any = {"steps": options.steps, "tolerance": options.tolerance}
        if options.by == "nmf":
            how: Any = {
                "init": options.init,
                "stop": options.stop,
                "inner": options.inner,
                "restarts": options.restarts,
            }
            return nmf_many(list(features.values()), count, names=list(features), seed=seed, **stop, **how)
        if options.by == "semi_nmf":
            return [semi_nmf(values, count, seed=seed, name=label, **stop) for label, values in features.items()]
        if options.by == "principal_directions":
            return [principal_directions(values, count) for values in features.values()]
        make = k_means if options.by == "k_means" else random_features
        return [make(values, count, seed=seed, name=label) for label, values in features.items()]

    def _in_prototypes(
        self, label: int, factors: Factors, features: Tensor, negative: float
    ) -> tuple[list[Tensor], dict[str, float]]:
        """The head of a class in its prototypes, the one with the largest coefficient first."""
        head, basis = self.model.reader.weight[label : label + 1], unit_rows(factors.basis)[None]
        weights = coefficients(head, basis, self.options.head_solver)  # type: ignore[arg-type]  # checked by the schema
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


def _energy(features: Tensor) -> float:
    """The sum of squares, row by row, as its terms together would take as much memory again."""
    return float(features.norm(dim=1).double().square().sum())
