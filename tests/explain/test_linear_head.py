"""A head in prototypes: exact whatever the prototypes are, and the paper's convex problems in closed form."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trust_exp.explain.linear_head import (
    augmented,
    coefficients,
    residual,
    residual_map,
    shift_of_augmentation,
    similarity,
    unconstrained_encoding,
    unit_rows,
)


def head_and_basis(seed=0, classes=4, count=3, width=12):
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return head, unit_rows(torch.rand(classes, count, width, generator=generator, dtype=torch.float64))


def test_the_coefficients_are_those_of_a_convex_solver():
    pytest.importorskip("cvxpy", reason="cvxpy is not installed")
    head, basis = head_and_basis()
    basis[1, 2] = 0
    torch.testing.assert_close(coefficients(head, basis), coefficients(head, basis, "cvxpy"), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5))
def test_the_residual_is_orthogonal_to_the_prototypes(seed, count):
    head, basis = head_and_basis(seed, count=count)
    weights = coefficients(head, basis)
    rest = residual(head, basis, weights)
    assert (basis @ rest[..., None]).abs().max() < 1e-9
    torch.testing.assert_close((weights[:, None] @ basis).squeeze(1) + rest, head)


def test_a_prototype_of_length_zero_has_no_coefficient():
    head, basis = head_and_basis()
    basis[0, 1] = 0
    weights = coefficients(head, basis)
    assert weights[0, 1] == 0
    assert (weights[1:] != 0).all()


def test_equal_prototypes_share_their_coefficient():
    head, basis = head_and_basis(count=2)
    basis[:, 1] = basis[:, 0]
    weights = coefficients(head, basis)
    torch.testing.assert_close(weights[:, 0], weights[:, 1])


def test_contributions_do_not_know_the_scale_of_a_prototype():
    """And Eq. 8 does: the sum of the coefficients is another one (explanations, trap 10)."""
    head, basis = head_and_basis()
    scaled = basis * torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)[:, None]
    features = torch.rand(5, 12, dtype=torch.float64)
    one, other = (coefficients(head, rows)[..., None] * rows @ features.T for rows in (basis, scaled))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(coefficients(head, basis).sum(1), coefficients(head, scaled).sum(1))
    torch.testing.assert_close(unit_rows(scaled), basis)


def test_the_residual_is_placed_as_the_papers_problem_places_it():
    """min_H of the norm of A - E B - H R for any E: least squares over H alone."""
    head, basis = head_and_basis()
    rest = residual(head, basis, coefficients(head, basis))[0]
    features, encoding = torch.rand(7, 12, dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64)
    left = features - encoding @ basis[0]
    slow = torch.linalg.lstsq(rest[:, None], left.T).solution.squeeze(0)
    torch.testing.assert_close(residual_map(features, rest), slow)
    assert (residual_map(features, rest * 0) == 0).all()
    torch.testing.assert_close(1e-14 * residual_map(features, 1e-14 * rest / rest.norm()), slow * rest.norm())


@pytest.mark.parametrize("shares", ["sum", "abs", "energy"])
def test_augmented_prototypes_give_the_head_without_a_residual(shares):
    head, basis = head_and_basis(classes=50)
    weights = coefficients(head, basis)
    found, _ = augmented(basis, weights, residual(head, basis, weights), shares)
    torch.testing.assert_close((weights[:, None] @ found).squeeze(1), head)


def test_the_papers_share_is_eq_8_unless_coefficients_cancel():
    basis, rest = torch.eye(3, dtype=torch.float64)[None, :2].repeat(3, 1, 1), torch.zeros(3, 3, dtype=torch.float64)
    rest[:, 2] = 1
    weights = torch.tensor([[3.0, -1.0], [1.0, -1.05], [-2.0, -1.0]], dtype=torch.float64)
    found, guarded = augmented(basis, weights, rest)
    assert guarded.tolist() == [False, True, True]
    torch.testing.assert_close(found[0], basis[0] + rest[0] / 2)
    bounded, _ = augmented(basis, weights, rest, "abs")
    torch.testing.assert_close(found[1:], bounded[1:])
    torch.testing.assert_close((weights[:, None] @ found).squeeze(1), (weights[:, None] @ basis).squeeze(1) + rest)


def test_without_coefficients_nothing_is_shared():
    _, basis = head_and_basis(classes=1)
    for shares in ("sum", "abs", "energy"):
        found, _ = augmented(basis, torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 12).double(), shares)
        torch.testing.assert_close(found, basis)


def test_the_shift_is_looked_at_where_a_prototype_is_strong():
    basis = torch.eye(3, dtype=torch.float64)[:1]
    moved = basis + torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    features = torch.tensor([[10.0, 2, 0], [1, 9, 0], [0.5, 9, 0], [0.1, 9, 0]], dtype=torch.float64)
    assert shift_of_augmentation(features, basis, moved, 0.25) == pytest.approx(0.1)
    assert shift_of_augmentation(features, basis, moved, 0.5) == pytest.approx(0.1)  # the lower of two medians
    assert shift_of_augmentation(features, basis, basis) == 0
    places = [0.5 * feature[1] / feature[0] for feature in features.tolist()]
    assert shift_of_augmentation(features, basis, moved, 1.0) == pytest.approx(sorted(places)[1])


def test_the_unconstrained_encoding_is_least_squares():
    _, basis = head_and_basis(classes=1)
    features = torch.randn(6, 12, dtype=torch.float64)
    slow = torch.linalg.lstsq(basis[0].T, features.T).solution.T
    torch.testing.assert_close(unconstrained_encoding(features, basis[0]), slow)


@pytest.mark.parametrize("apart", [1e-7, 1e-6, 1e-5])
def test_prototypes_that_differ_by_rounding_have_no_large_coefficients(apart):
    """Else what float32 rounds away times these would be the logits' error."""
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(64, generator=generator)
    basis = unit_rows(torch.stack([row, row * (1 + apart * torch.randn(64, generator=generator))])[None])
    head = torch.randn(1, 64, generator=generator)
    weights = coefficients(head, basis)
    assert weights.abs().max() < 10 * head.norm()
    read = torch.rand(100, 64, generator=generator)
    parts = (read @ basis[0].mT * weights[0]).sum(1) + read @ residual(head, basis, weights)[0]
    torch.testing.assert_close(parts, read @ head[0], rtol=0, atol=1e-4)


def test_the_papers_share_can_be_had_without_its_guard():
    head = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    basis = torch.eye(3, dtype=torch.float64)[None, :2]
    weights = torch.tensor([[1.0, -0.95]], dtype=torch.float64)
    rest = residual(head, basis, weights)
    moved, guarded = augmented(basis, weights, rest, "paper")
    assert not guarded.any()
    torch.testing.assert_close(moved, basis + rest[:, None] / 0.05)
    assert augmented(basis, weights, rest)[1].all()


def test_a_prototype_of_any_sign_has_a_finite_shift():
    features, basis = torch.rand(50, 4), -torch.rand(2, 4)
    assert shift_of_augmentation(features, basis, basis * 1.5) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_misspelt_choices_are_refused():
    head, basis = head_and_basis()
    with pytest.raises(ValueError, match="solver must be one of lstsq, cvxpy; got 'lstq'"):
        coefficients(head, basis, "lstq")
    with pytest.raises(ValueError, match="shares must be one of sum, paper, abs, energy; got 'sums'"):
        augmented(basis, torch.ones(4, 3), head, "sums")


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_rows_of_any_length_become_unit_rows(scale):
    rows = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    rows[0, 1] = 0
    found = unit_rows(rows * scale)
    torch.testing.assert_close(found, torch.nn.functional.normalize(rows, dim=-1))
    assert (found[0, 1] == 0).all()


@pytest.mark.parametrize("shares", ["sum", "paper", "abs", "energy"])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12])
def test_augmentation_is_exact_for_small_and_large_heads(shares, scale):
    generator = torch.Generator().manual_seed(0)
    basis, head = torch.rand(4, 3, 8, generator=generator), scale * torch.randn(4, 8, generator=generator)
    weights = coefficients(head, basis)
    moved, _ = augmented(basis, weights, residual(head, basis, weights), shares)
    rebuilt = (weights[:, None].double() @ moved.double()).squeeze(1)
    torch.testing.assert_close(rebuilt / scale, head.double() / scale, rtol=1e-3, atol=1e-4)


def test_coefficients_that_sum_to_zero_lose_nothing_as_printed():
    basis, weights = torch.eye(2, 4)[None], torch.tensor([[1.0, -1.0]])
    rest = torch.tensor([[0.0, 0.0, 2.0, -3.0]])
    moved, guarded = augmented(basis, weights, rest, "paper")
    assert guarded.tolist() == [True]
    torch.testing.assert_close((weights[:, None] @ moved).squeeze(1), torch.tensor([[1.0, -1.0, 2.0, -3.0]]))


@pytest.mark.parametrize(("total", "guarded"), [(0.19, True), (0.21, False), (-0.01, True)])
def test_shares_are_guarded_where_a_tenth_of_the_coefficients_is_left(total, guarded):
    weights = torch.tensor([[1 + total / 2, -1 + total / 2]], dtype=torch.float64)  # absolute values of 2
    basis, rest = torch.eye(2, 3, dtype=torch.float64)[None], torch.ones(1, 3, dtype=torch.float64)
    assert augmented(basis, weights, rest)[1].tolist() == [guarded]


def test_similarity_is_the_mean_cosine_of_two_prototypes_of_a_class():
    basis = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosines = [
        float(rows[i] @ rows[j] / rows[i].norm() / rows[j].norm())
        for rows in basis
        for i, j in itertools.combinations(range(4), 2)
    ]
    assert similarity(basis) == pytest.approx(sum(cosines) / len(cosines), rel=1e-12)
    assert similarity(basis[:, :1].repeat(1, 3, 1)) == pytest.approx(1)
