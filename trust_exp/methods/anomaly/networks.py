"""Networks that score images by what normal features are like."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.methods.anomaly.core import nearest_distance, residual


class Filled(nn.Module):
    """A module with tensors of any size that are found later; they are saved and loaded as buffers are.

    Args:
        found: their names; each is empty until it is found.
    """

    def __init__(self, found: Iterable[str]) -> None:
        super().__init__()
        self.found = tuple(found)
        for name in self.found:
            self.register_buffer(name, torch.empty(0))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        for name in self.found:
            if (stored := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(stored))
        super()._load_from_state_dict(state_dict, prefix, *others)


class Memory(Filled):
    """Scores by what each model's normal features are like; ``scores`` are float32 [B, M], one column a model.

    Args:
        features: maps images to vectors [B, D]; frozen.
        models: M, how many sets of normal classes there are.
    """

    gives: tuple[str, ...] = ("scores",)
    kept: tuple[str, ...] = ()  # the tensors that a model keeps

    def __init__(self, features: nn.Module, models: int) -> None:
        super().__init__(f"{name}_{model}" for model in range(models) for name in self.kept)
        self.features, self.models = features.requires_grad_(False), models

    def keep(self, model: int, *tensors: Tensor) -> None:
        """Fill in what a model keeps."""
        for name, tensor in zip(self.kept, tensors, strict=True):
            setattr(self, f"{name}_{model}", tensor)

    def of(self, model: int) -> tuple[Tensor, ...]:
        """What a model keeps."""
        return tuple(getattr(self, f"{name}_{model}") for name in self.kept)

    def train(self, mode: bool = True) -> "Memory":
        super().train(False)  # also the features: batch norm keeps its statistics
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.features(image).float()
        return {"scores": torch.stack([self.score(features, model) for model in range(self.models)], dim=1)}

    def score(self, features: Tensor, model: int) -> Tensor:
        """Scores [B] of features [B, D] by one model."""
        raise NotImplementedError


class NearestNeighbours(Memory):
    """All normal features; the score is the mean distance to the nearest of them."""

    kept = ("normal",)

    def __init__(self, features: nn.Module, models: int, neighbours: int) -> None:
        super().__init__(features, models)
        self.neighbours = neighbours

    def score(self, features: Tensor, model: int) -> Tensor:
        (normal,) = self.of(model)
        return nearest_distance(features, normal, self.neighbours)


class Subspace(Memory):
    """The subspace in which normal features vary most; the score is the squared distance to it."""

    kept = ("mean", "basis")

    def score(self, features: Tensor, model: int) -> Tensor:
        return residual(features, *self.of(model))
