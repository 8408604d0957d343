"""Other prototypes: against plain forms."""

import itertools

import numpy as np
import pytest
import torch

from trust_exp.explain.bases import k_means, principal_directions, random_features
from trust_exp.explain.linear_head import matched_cosine
from trust_exp.explain.nnls import encode


def features(rows: int = 80, columns: int = 10) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3


def test_principal_directions_are_the_right_singular_vectors():
    found = principal_directions(features(), 3)
    _, singular, right = np.linalg.svd(features().numpy())
    np.testing.assert_allclose(np.abs(found.basis.numpy()), np.abs(right[:3]), atol=1e-8)
    assert found.error == pytest.approx(np.sqrt((singular[3:] ** 2).sum()))
    assert (found.encoding.sum(0) > 0).all()
    assert found.steps == 1


def test_the_centres_are_means_of_the_features_that_are_nearest_to_them():
    matrix = features()
    found = k_means(matrix, 4)
    nearest = torch.cdist(matrix, found.basis).argmin(1)
    for number, centre in enumerate(found.basis):
        torch.testing.assert_close(matrix[nearest == number].mean(0), centre, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.basis, k_means(matrix, 4).basis)
    assert not torch.equal(found.basis, k_means(matrix, 4, seed=1).basis)


def test_random_features_are_features():
    matrix = features()
    found = random_features(matrix, 5)
    assert torch.equal(found.basis, random_features(matrix, 5, seed=0, name=0).basis)
    assert all((row == matrix).all(1).any() for row in found.basis)
    torch.testing.assert_close(found.encoding, encode(matrix, found.basis))
    assert found.error == pytest.approx(float((matrix - found.encoding @ found.basis).norm()))


def test_prototypes_are_matched_by_the_best_of_all_orders():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    lengths = one.norm(dim=1, keepdim=True) * other.norm(dim=1)
    cosines = one @ other.T / lengths
    slow = max(sum(cosines[i, j].item() for i, j in enumerate(order)) / 4 for order in itertools.permutations(range(4)))
    assert matched_cosine(one, other) == pytest.approx(slow)
    assert matched_cosine(one, one[[2, 0, 3, 1]] * 3) == pytest.approx(1)


def test_principal_directions_of_float32_are_those_of_float64():
    """Where one direction has nearly all of the energy, which a product in float32 would drown the others in."""
    generator = torch.Generator().manual_seed(0)
    matrix = 100 + 0.05 * torch.randn(5000, 30, generator=generator)
    one, other = (principal_directions(values, 4).basis.double() for values in (matrix, matrix.double()))
    assert (one * other).sum(1).abs().min() > 0.999
