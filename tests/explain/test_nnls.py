"""Non-negative least squares against scipy, row by row, where prototypes are alike, equal, or many."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from trust_exp.explain import nnls as module
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


def hilbert(size: int) -> torch.Tensor:
    places = torch.arange(size, dtype=torch.float64)
    return 1 / (places[:, None] + places + 1)


HARD = {  # features, prototypes
    "ten that differ by 1e-5": (512, 10, 1e-5),
    "twenty that differ by 1e-5": (512, 20, 1e-5),
    "ten that differ by 1e-8": (64, 10, 1e-8),
    "two features, 1e-3": (2, 10, 1e-3),
    "two features, 1e-6": (2, 6, 1e-6),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_row_is_at_its_optimum_where_prototypes_are_nearly_equal(name, dtype):
    features, count, spread = HARD[name]
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(features, generator=generator, dtype=torch.float64)
    basis = (base + spread * torch.randn(count, features, generator=generator, dtype=torch.float64)).to(dtype)
    matrix = torch.cat(
        (
            torch.rand(40, features, generator=generator, dtype=torch.float64),
            base + spread * torch.randn(40, features, generator=generator, dtype=torch.float64),
            torch.randn(20, features, generator=generator, dtype=torch.float64),
        )
    ).to(dtype)
    found = encode(matrix, basis).double()
    for row, wanted in zip(found, matrix.double(), strict=True):
        _, distance = nnls(basis.double().T.numpy(), wanted.numpy())
        ours = float((wanted - row @ basis.double()).norm())
        assert ours <= distance * (1 + 1e-6) + (1e-12 if dtype == torch.float64 else 1e-6 * float(wanted.norm()))
        assert ours <= float(wanted.norm()) * (1 + 1e-6), "no worse than nothing"


@pytest.mark.parametrize("size", [5, 8, 12])
def test_hilbert_matrices(size):
    basis = hilbert(size)
    matrix = torch.rand(20, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check(torch.cat((matrix, matrix @ basis)), basis, 1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_prototypes_and_features_of_any_size(scale):
    generator = torch.Generator().manual_seed(0)
    matrix, basis = torch.rand(20, 9, generator=generator), torch.rand(4, 9, generator=generator)
    plain = encode(matrix, basis)
    torch.testing.assert_close(encode(matrix * scale, basis) / scale, plain)
    torch.testing.assert_close(encode(matrix, basis * scale) * scale, plain)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rows_that_are_solved_alone_are_solved_at_any_size(scale):
    """Entries enter one by one, and leave where others would push them below zero."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.rand(8, 10, generator=generator, dtype=torch.float64).numpy()
    for row in torch.randn(40, 10, generator=generator, dtype=torch.float64).numpy():
        wanted, _ = nnls(basis.T, row)
        np.testing.assert_allclose(module._active_set(basis, scale * row) / scale, wanted, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    for place in (0, 1):
        given = [torch.rand(3, 4), torch.rand(2, 4)]
        given[place][0, 0] = value
        with pytest.raises(ValueError, match="must be finite"):
            encode(*given)


def test_a_row_without_an_optimum_is_named_and_not_returned(monkeypatch):
    matrix, basis = torch.rand(5, 8), torch.rand(2, 8)
    monkeypatch.setattr(module, "_pivoted", lambda small, rows, alive: torch.zeros(5, 2, dtype=torch.float64))
    solved = encode(matrix, basis)
    monkeypatch.undo()
    torch.testing.assert_close(solved, encode(matrix, basis))
    monkeypatch.setattr(module, "_pivoted", lambda small, rows, alive: torch.zeros(5, 2, dtype=torch.float64))
    monkeypatch.setattr(module, "_active_set", lambda small, row: np.zeros(2))
    with pytest.raises(ArithmeticError, match="5 of 5 rows have no optimum that float64 can tell"):
        encode(matrix, basis)


def test_wrong_entries_are_exchanged_all_at_once(monkeypatch):
    """One by one, some twenty entries of each row would take as many rounds."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.rand(40, 60, generator=generator, dtype=torch.float64)
    matrix = torch.rand(20, 60, generator=generator, dtype=torch.float64)
    rounds, solved = [], module._solved
    monkeypatch.setattr(module, "_solved", lambda *given: rounds.append(len(given[0])) or solved(*given))
    check(matrix, basis)
    assert len(rounds) < 10
