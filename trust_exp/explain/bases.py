"""Baselines for prototypes of a factorisation: k-means, principal directions, random features."""

import torch
from jaxtyping import Float
from torch import Tensor

from trust_exp.explain.factorisation import Factors, gram_of
from trust_exp.explain.linear_head import unconstrained_encoding
from trust_exp.explain.nnls import encode
from trust_exp.rng import keyed_generator


def k_means(matrix: Float[Tensor, "N D"], rank: int, *, seed: int = 0, name: int = 0) -> Factors:
    """The centres of k-means, and the non-negative encoding of each feature in them.

    Args:
        matrix: features, [N, D].
        rank: p <= N.
        seed, name: keys of the random start; ``name`` is that of the matrix.

    Source: scikit-learn's k-means++ and Lloyd; as prototypes: Gautam et al. 2024 (KMEx).
    """
    from sklearn.cluster import KMeans

    state = int(torch.randint(2**31, (1,), generator=keyed_generator(seed, "k_means", name)))
    solver = KMeans(rank, n_init=1, random_state=state).fit(matrix.cpu().numpy())
    centres = torch.from_numpy(solver.cluster_centers_).to(matrix)
    return _encoded(matrix, encode(matrix, centres), centres, solver.n_iter_)


def principal_directions(matrix: Float[Tensor, "N D"], rank: int) -> Factors:
    """The directions with the most energy (without centring), with the sign that features have on balance.

    Args:
        matrix: features, [N, D].
        rank: p <= min(N, D).
    """
    _, vectors = torch.linalg.eigh(gram_of(matrix))
    basis = vectors[:, -rank:].flip(1).mT.to(matrix)
    basis = basis * torch.where((matrix @ basis.mT).sum(0) < 0, -1.0, 1.0)[:, None]
    return _encoded(matrix, unconstrained_encoding(matrix, basis), basis, 1)


def random_features(matrix: Float[Tensor, "N D"], rank: int, *, seed: int = 0, name: int = 0) -> Factors:
    """Randomly chosen features, and the non-negative encoding of each feature in them.

    Args:
        matrix: features, [N, D].
        rank: p <= N.
        seed, name: keys of the random choice; ``name`` is that of the matrix.
    """
    order = torch.randperm(len(matrix), generator=keyed_generator(seed, "random_features", name))
    basis = matrix[order[:rank].to(matrix.device)]
    return _encoded(matrix, encode(matrix, basis), basis, 1)


def _encoded(matrix: Tensor, encoding: Tensor, basis: Tensor, steps: int) -> Factors:
    error = float((matrix - encoding @ basis).norm())
    return Factors(encoding, basis, error, steps, (error,), basis[None])
