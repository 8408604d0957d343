"""Scores of samples by what normal ones are like, as plain functions of features."""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 2**24  # distances in memory at a time


def nearest_distance(
    features: Float[Tensor, "B D"], normal: Float[Tensor, "N D"], neighbours: int = 1
) -> Float[Tensor, " B"]:
    """The mean L2 distance of each row to its nearest normal ones.

    Args:
        neighbours: how many, at most N.
    """
    rows = max(1, CHUNK // len(normal))
    found = []
    for part in features.split(rows):
        distance = torch.cdist(part, normal)
        found.append(distance.topk(neighbours, dim=1, largest=False).values.mean(1))
    return torch.cat(found)


def principal_subspace(
    normal: Float[Tensor, "N D"], directions: int
) -> tuple[Float[Tensor, " D"], Float[Tensor, "K D"]]:
    """The mean of normal features, and the orthonormal directions in which they vary most, the first one first.

    Found in float64 from the smaller of covariance and Gram matrix.

    Raises:
        ValueError: if the features vary in fewer directions.
    """
    mean = normal.double().mean(0)
    centred = normal.double() - mean
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values.flip(0)[:directions], vectors.flip(1)[:, :directions]
    if len(values) < directions or values[-1] <= values[0] * len(centred) * torch.finfo(torch.float64).eps:
        varying = int((values > values[0] * len(centred) * torch.finfo(torch.float64).eps).sum())
        raise ValueError(f"{len(normal)} samples vary in {varying} directions; {directions} were asked for")
    basis = (centred.T @ vectors / values.sqrt()).T if wide else vectors.T
    return mean.to(normal), basis.to(normal)


def residual(
    features: Float[Tensor, "B D"], mean: Float[Tensor, " D"], basis: Float[Tensor, "K D"]
) -> Float[Tensor, " B"]:
    """The squared distance of each row to an affine subspace with an orthonormal basis."""
    centred = features - mean
    return (centred - (centred @ basis.T) @ basis).square().sum(1)
