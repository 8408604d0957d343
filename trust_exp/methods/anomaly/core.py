"""Scores of samples by what normal ones are like, as plain functions of features."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**24  # distances in memory at a time
CACHED = 2**20  # on a CPU: more fall out of its cache
FLAT = 1e-6  # an image whose values lie so near to their mean is constant


def pixel_error(pixels: Float[Tensor, "B *s"], image: Float[Tensor, "B *s"], kind: str) -> Float[Tensor, " B"]:
    """The error of a reconstruction, summed over the pixels of each image.

    Args:
        pixels: before the sigmoid.
        image: in [0, 1].
        kind: "bce", the cross-entropy in nats, or "mse", the squared error.
    """
    if kind == "bce":
        errors = F.binary_cross_entropy_with_logits(pixels, image, reduction="none")
    else:
        errors = (pixels.sigmoid() - image).square()
    return errors.flatten(1).sum(1)


def divergence(mean: Float[Tensor, "B D"], log_variance: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """The divergence KL(q, p) in nats of the normal distribution of each code from the standard one.

    Source: Kingma and Welling 2014, appendix B.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def log_ratio(
    mean: Float[Tensor, "B D"], log_variance: Float[Tensor, "B D"], noise: Float[Tensor, "*B D"]
) -> Float[Tensor, " B"]:
    """log q(z) - log p(z) in nats of the latents that standard normal noise draws; its mean is the divergence."""
    latents = mean + (log_variance / 2).exp() * noise
    return (latents.square() - noise.square() - log_variance).sum(1) / 2


def importance_bound(negative_log_weights: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
    """The negative logarithm of the mean weight of K draws: with one, the negative evidence bound; with more, tighter.

    Args:
        negative_log_weights: error of the reconstruction plus ``log_ratio`` of each draw, in nats.

    Source: Burda et al. 2016, Eq. 8.
    """
    return math.log(len(negative_log_weights)) - (-negative_log_weights).logsumexp(0)


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


def contrasted(image: Float[Tensor, "B *s"]) -> Float[Tensor, "B *s"]:
    """Global contrast normalisation: images less their mean, divided by their mean absolute value; constant ones are 0.

    Source: Ruff et al. 2018, sec. 4.1, with the L1 norm.
    """
    flat = image.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    scale = centred.abs().mean(1, keepdim=True)
    return (centred / torch.where(scale > FLAT, scale, 1)).view_as(image)


def distant_centre(codes: Float[Tensor, "N D"], least: float = 0.1) -> Float[Tensor, " D"]:
    """The mean of codes, with values near 0 moved to ``least`` or its negative, as a network reaches 0 too easily.

    Source: the released code of Ruff et al. 2018; the paper has the mean.
    """
    centre = codes.mean(0)
    moved = torch.where(centre < 0, -least, least).to(centre)
    return torch.where(centre.abs() < least, moved, centre)


def support_vectors(
    codes: Float[Tensor, "N D"], nu: float
) -> tuple[Float[Tensor, "S D"], Float[Tensor, " S"], Float[Tensor, ""], Float[Tensor, ""]]:
    """Support vectors, their weights, the offset and the width of scikit-learn's one-class machine with an RBF kernel.

    A code x lies inside where sum of weight * exp(-width * ||x - vector||²) is at least the offset.

    Args:
        nu: fraction of the codes that may lie outside.
    """
    from sklearn.svm import OneClassSVM

    machine = OneClassSVM(nu=nu, gamma="scale").fit(codes.double().cpu().numpy())
    found = (machine.support_vectors_, machine.dual_coef_[0], machine.offset_[0], machine._gamma)
    vectors, weights, offset, gamma = (
        torch.as_tensor(value, dtype=codes.dtype, device=codes.device) for value in found
    )
    return vectors, weights, offset, gamma


def nearest(
    features: Float[Tensor, "B D"], bank: Float[Tensor, "N D"]
) -> tuple[Float[Tensor, " B"], Int64[Tensor, " B"]]:
    """The L2 distance of each row to its nearest row of the bank, and which one that is.

    Found by matrix products, a part of the rows at a time; the distance itself is then taken of the difference, so that
    it does not suffer from their cancellation.
    """
    half = bank.square().sum(1) / 2
    rows = max(64, (CHUNK if features.is_cuda else CACHED) // len(bank))
    place = torch.cat([torch.addmm(half, part, bank.T, alpha=-1).min(1).indices for part in features.split(rows)])
    return (features - bank[place]).norm(dim=1), place


def coreset(
    features: Float[Tensor, "N D"],
    number: int,
    generator: torch.Generator,
    projection: int = 128,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Int64[Tensor, " K"]:
    """Rows that cover all others: each is the one that is farthest from those before it (greedy k-centre).

    Args:
        number: how many, at most N.
        generator: draws the projection and the first row, on the CPU.
        projection: to how many random directions the features are reduced for the search; 0: not.
        progress: wraps the steps.

    Source: Roth et al. 2022 (PatchCore), sec. 3.2.
    """
    if 0 < projection < features.shape[1]:
        directions = torch.randn(features.shape[1], projection, generator=generator) / projection**0.5
        features = features @ directions.to(features)
    squares = features.square().sum(1)
    chosen = torch.empty(number, dtype=torch.int64)
    place = int(torch.randint(len(features), (1,), generator=generator))
    closest = torch.full_like(squares, torch.inf)
    for step in progress(range(number)):
        chosen[step] = place
        closest = torch.minimum(closest, squares - 2 * (features @ features[place]) + squares[place])
        closest[place] = -torch.inf  # rounding never lets a row be chosen twice
        place = int(closest.argmax())
    return chosen


def reweighted(features: Float[Tensor, "B D"], bank: Float[Tensor, "N D"], neighbours: int = 9) -> Float[Tensor, " B"]:
    """The factor of an image's score whose most anomalous patch is ``features``: small where normal ones are dense.

    1 - exp(d(f, m)) / sum of exp(d(f, n)) over the rows n of the bank that are nearest to m, the one nearest to f.

    Source: Roth et al. 2022 (PatchCore), Eq. 7.
    """
    distance, place = nearest(features, bank)
    around = torch.cdist(bank[place], bank).topk(min(neighbours, len(bank)), dim=1, largest=False).indices
    others = (features[:, None] - bank[around]).norm(dim=2)
    return 1 - (distance - others.logsumexp(1)).exp()


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
