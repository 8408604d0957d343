"""Distances and similarities of features to prototypes, against slow forms in float64."""

import math

import pytest
import torch

from trust_exp.explain.patches import log_similarity, squared_distances


def test_distances_are_those_of_every_pair():
    features, prototypes = torch.randn(2, 3, 5, 4), torch.randn(6, 4)
    slow = (features.double()[:, :, None] - prototypes.double()[:, None]).square().sum(-1)
    found = squared_distances(features, prototypes)
    assert found.shape == (2, 3, 6, 5)
    torch.testing.assert_close(found.double(), slow, rtol=1e-5, atol=1e-5)


def test_a_common_offset_costs_no_digits():
    """Features after ReLU lie far from 0: without moving both, ‖z‖² - 2 z p + ‖p‖² would cancel."""
    features, prototypes = torch.rand(1, 7, 8) + 1000, torch.rand(3, 8) + 1000
    slow = (features.double()[:, None] - prototypes.double()[:, None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(features, prototypes).double(), slow, rtol=1e-3, atol=1e-4)


def test_a_prototype_is_at_no_distance_of_itself_and_never_at_a_negative_one():
    prototypes = torch.randn(20, 16) * 100
    own = squared_distances(prototypes[None], prototypes)[0].diagonal()
    assert (own >= 0).all()
    assert (own < 1e-6 * prototypes.square().sum(1)).all()


def test_distances_are_float32_whatever_the_features_are():
    found = squared_distances(torch.randn(1, 2, 4, dtype=torch.bfloat16), torch.randn(3, 4, dtype=torch.float64))
    assert found.dtype == torch.float32


def test_the_offset_is_no_way_for_gradients():
    """The prototypes are moved by their mean, which is a constant: gradients are those of the plain form."""
    features = torch.randn(1, 3, 4, requires_grad=True)
    prototypes = torch.randn(2, 4, requires_grad=True)
    slow = (features[:, None] - prototypes[:, None]).square().sum(-1)
    weights = torch.randn(1, 2, 3)
    wanted = torch.autograd.grad((slow * weights).sum(), (features, prototypes))
    found = torch.autograd.grad((squared_distances(features, prototypes) * weights).sum(), (features, prototypes))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_similarity_falls_from_its_largest_at_the_prototype_to_0():
    distances = torch.tensor([0.0, 1.0, 4.0, 1e6], dtype=torch.float64)
    found = log_similarity(distances)
    assert found.tolist() == pytest.approx([math.log((d + 1) / (d + 1e-4)) for d in distances.tolist()], rel=1e-12)
    assert found[0] == pytest.approx(math.log(1e4))
    assert log_similarity(distances, epsilon=0.5)[0] == pytest.approx(math.log(2))
