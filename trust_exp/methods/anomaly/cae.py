"""Convolutional autoencoders of normal images: scores by the reconstruction, or by the place of a code among others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.core import nearest_distance, support_vectors
from trust_exp.methods.anomaly.networks import Filled
from trust_exp.methods.anomaly.training import OneClass, OneClassTraining
from trust_exp.models.cae import Autoencoder


class CaeScores(Filled):
    """An autoencoder and the error of its reconstruction; ``maps`` [B, H, W] are errors of pixels."""

    kept: tuple[str, ...] = ()

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(self.kept)
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
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> CaeScores:
        return CaeScores(model)

    def loss(self, member: CaeScores, image: Tensor, *, stage: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        return F.mse_loss(member.autoencoder(image), image), {}


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
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> SupportVectors:
        return SupportVectors(model, options["nu"])


class CaeNearest(CodeTraining):
    """Nearest neighbour among codes."""

    @classmethod
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> NearestCode:
        return NearestCode(model)
