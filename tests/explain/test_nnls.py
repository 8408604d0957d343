"""Non-negative least squares against scipy, row by row, where prototypes are alike, equal, or many."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from trust_exp.explain.nnls import encode


def check(matrix: torch.Tensor, basis: torch.Tensor, relative: float = 1e-9) -> None:
    found = encode(matrix, basis)
    assert (found >= 0).all()
    for row, features in zip(found, matrix, strict=True):
        _, distance = nnls(basis.T.double().numpy(), features.double().numpy())
        assert float((features - row @ basis).norm()) == pytest.approx(distance, rel=relative, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 12))
def test_the_distance_is_that_of_scipy(seed, rank):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(12, 20, generator=generator, dtype=torch.float64)
    check(matrix, torch.rand(rank, 20, generator=generator, dtype=torch.float64) - 0.2)


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_prototypes_that_are_nearly_the_same(spread):
    """As those of ProtoPNet are: cosines above 0.99, and some the same patch."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(30, generator=generator, dtype=torch.float64)
    basis = base + spread * torch.randn(10, 30, generator=generator, dtype=torch.float64)
    basis[9] = basis[0]
    check(base + 0.05 * torch.randn(100, 30, generator=generator, dtype=torch.float64), basis, 1e-7)


def test_more_prototypes_than_features_have_entries():
    generator = torch.Generator().manual_seed(0)
    matrix, basis = torch.randn(40, 6, generator=generator), torch.randn(70, 6, generator=generator)
    found = encode(matrix.double(), basis.double())
    distances = [nnls(basis.T.double().numpy(), row.double().numpy())[1] for row in matrix]
    np.testing.assert_allclose((matrix - found @ basis.double()).norm(dim=1), distances, atol=1e-6)


def test_prototypes_of_length_zero_are_nowhere_and_features_of_zero_have_none():
    matrix, basis = torch.rand(5, 8), torch.cat([torch.zeros(1, 8), torch.rand(1, 8)])
    matrix[2] = 0
    found = encode(matrix, basis)
    assert found.dtype == torch.float32
    assert (found[:, 0] == 0).all()
    assert (found[[0, 1, 3, 4], 1] > 0).all()
    assert found[2, 1] == 0
    assert encode(matrix[:0], basis).shape == (0, 2)
