"""Convolutional autoencoders of normal images: scores by the reconstruction, or by the place of a code among others."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.core import nearest_distance, support_vectors
from trust_exp.methods.anomaly.training import OneClass, OneClassTraining
from trust_exp.models.cae import Autoencoder


class CaeScores(nn.Module):
    """An autoencoder and the error of its reconstruction; ``maps`` [B, H, W] are errors of pixels."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        rebuilt = self.autoencoder(image)
        errors = (rebuilt - image).square()
        error = errors.mean((1, 2, 3))
        return {"maps": errors.mean(1), "reconstruction": rebuilt, **self.scores(image, error)}

    def scores(self, image: Tensor, error: Tensor) -> dict[str, Tensor]:
        """The scores of images, given the errors of their reconstructions [B]."""
        return {"scores": error}


class CodeScores(CaeScores):
    """Scores by normal codes, which are kept after the training; the error of the reconstruction is a further score."""

    kept: tuple[str, ...] = ()

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(autoencoder)
        for name in self.kept:
            self.register_buffer(name, torch.empty(0))

    def scores(self, image: Tensor, error: Tensor) -> dict[str, Tensor]:
        if not getattr(self, self.kept[0]).numel():
            raise UserError("normal codes are kept at the end of the training; until then there is no score by them")
        return {"scores": self.of(self.autoencoder.pooled(image)), "scores_reconstruction": error}

    def of(self, codes: Tensor) -> Tensor:
        """The scores of codes [B, D]."""
        raise NotImplementedError

    def remember(self, codes: Tensor) -> None:
        """Keep what the scores need of normal codes [N, D]."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        for name in self.kept:
            if (stored := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(stored))
        super()._load_from_state_dict(state_dict, prefix, *others)


class NearestCode(CodeScores):
    """The squared distance to the nearest normal code."""

    kept = ("normal",)
    normal: Tensor

    def of(self, codes: Tensor) -> Tensor:
        return nearest_distance(codes, self.normal).square()

    def remember(self, codes: Tensor) -> None:
        self.normal = codes


class SupportVectors(CodeScores):
    """How far outside of the region of normal codes a code lies; scikit-learn's machine with its sign turned.

    Args:
        nu: fraction of normal samples that may lie outside.
    """

    kept = ("vectors", "weights", "offset", "gamma")
    vectors: Tensor
    weights: Tensor
    offset: Tensor
    gamma: Tensor

    def __init__(self, autoencoder: Autoencoder, nu: float) -> None:
        super().__init__(autoencoder)
        self.nu = nu

    def of(self, codes: Tensor) -> Tensor:
        kernel = (-self.gamma * torch.cdist(codes, self.vectors).square()).exp()
        return self.offset - kernel @ self.weights

    def remember(self, codes: Tensor) -> None:
        self.vectors, self.weights, self.offset, self.gamma = support_vectors(codes, self.nu)


class CaeTraining(OneClassTraining):
    """Mean squared error of the reconstruction of normal images."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> OneClass:
        members = [model, *(copy.deepcopy(model) for _ in info.normal[1:])]  # each begins as it would alone
        return OneClass([cls.scorer(one, options) for one in members])  # type: ignore[arg-type]

    @classmethod
    def scorer(cls, autoencoder: Autoencoder, options: Mapping[str, Any]) -> CaeScores:
        """The autoencoder with its scores."""
        return CaeScores(autoencoder)

    def loss(self, number: int, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        autoencoder: Autoencoder = self.model.members[number].autoencoder  # type: ignore[assignment]
        return F.mse_loss(autoencoder(image), image), {}


class CodeTraining(CaeTraining):
    """The same; after it the codes of all normal training images are kept."""

    def on_train_end(self) -> None:
        if self.global_step < self.total_steps:
            return  # it was stopped, and will go on
        members: Any = self.model.members.eval()
        data = self.batches.data
        for member, rows in zip(members, self.batches.rows, strict=True):
            with torch.no_grad():
                (codes,) = data.encoded("train", [rows], member.autoencoder.pooled)
            member.remember(codes.to(self.device))


class CaeOcsvm(CodeTraining):
    """One-class support vector machine on codes."""

    def __init__(self, model: OneClass, info: DatasetInfo, *, nu: float, **shared: Any) -> None:
        super().__init__(model, info, **shared)

    @classmethod
    def scorer(cls, autoencoder: Autoencoder, options: Mapping[str, Any]) -> SupportVectors:
        return SupportVectors(autoencoder, options["nu"])


class CaeNearest(CodeTraining):
    """Nearest neighbour among codes."""

    @classmethod
    def scorer(cls, autoencoder: Autoencoder, options: Mapping[str, Any]) -> NearestCode:
        return NearestCode(autoencoder)
