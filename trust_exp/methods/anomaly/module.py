"""Methods that keep what normal features are like, found in one pass over the normal training samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.core import principal_subspace
from trust_exp.methods.anomaly.networks import Memory, NearestNeighbours, Subspace
from trust_exp.methods.base import ClosedForm
from trust_exp.models.features import PooledFeatures


class MemoryMethod(ClosedForm):
    """Fills the memory of each model from its normal training samples, one model after the other."""

    draws = False
    model: Memory

    def __init__(self, model: Memory, info: DatasetInfo, **options: Any) -> None:
        super().__init__(model, info)
        self.options = options

    def portions(self, rank: int, world: int) -> Sequence[Sequence[int]]:
        return [[model] for model in range(rank, len(self.info.normal), world)]

    def begin(self, portions: Sequence[Sequence[int]]) -> None:
        labels = self.data.served_labels("train")
        self.rows = {
            model: torch.isin(labels, torch.tensor(self.info.normal[model])).nonzero().squeeze(1)
            for portion in portions
            for model in portion
        }

    def solve(self, portion: Sequence[int]) -> dict[int, Any]:
        encoded = self.data.encoded("train", [self.rows[model] for model in portion], self.model.features)
        return {
            model: tuple(tensor.cpu() for tensor in self.remember(features))
            for model, features in zip(portion, encoded, strict=True)
        }

    def remember(self, features: Tensor) -> tuple[Tensor, ...]:
        """What a model keeps of its normal features [N, D]."""
        raise NotImplementedError

    def keep(self, found: dict[int, Any]) -> None:
        for model, tensors in found.items():
            self.model.keep(model, *(tensor.to(self.device) for tensor in tensors))


class Nearest(MemoryMethod):
    """Distance to the nearest normal samples: on raw pixels the baseline that published tables lack."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> NearestNeighbours:
        return NearestNeighbours(PooledFeatures(model, info.shape), len(info.normal), options["neighbours"])

    def remember(self, features: Tensor) -> tuple[Tensor, ...]:
        if len(features) < self.options["neighbours"]:
            raise UserError(
                f"method.neighbours={self.options['neighbours']} is more than the {len(features)} normal samples"
            )
        return (features.contiguous(),)


class Pca(MemoryMethod):
    """Residual of principal component analysis."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> Subspace:
        return Subspace(PooledFeatures(model, info.shape), len(info.normal))

    def remember(self, features: Tensor) -> tuple[Tensor, ...]:
        try:
            return principal_subspace(features, self.options["directions"])
        except ValueError as error:
            raise UserError(f"method.directions={self.options['directions']}: the normal {error}") from error
