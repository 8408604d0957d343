"""Deletion and insertion against what can be said of a network that sums pixels."""

import pytest
import torch

from trust_exp.explain.deletion import area, deletion_curves


def two_pixels(images: torch.Tensor) -> torch.Tensor:
    """Logits of a network that looks at the first two of four pixels alone."""
    seen = images[:, 0, 0].sum(1)
    return torch.stack([torch.zeros_like(seen), 10 * (seen - 1.5)], 1)


def test_what_is_important_is_deleted_first_and_inserted_first():
    images = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    label = torch.tensor([1])
    right, wrong = (
        deletion_curves(two_pixels, images, torch.tensor([order]), label, 4)
        for order in ([[2.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 1.0]])
    )
    seen = torch.tensor([2.0, 1.5, 1.0, 1.0, 1.0])  # an empty pixel is 0.5
    torch.testing.assert_close(right[0][0], torch.sigmoid(10 * (seen - 1.5)))
    torch.testing.assert_close(right[1][0], torch.sigmoid(10 * (torch.tensor([1.0, 1.5, 2.0, 2.0, 2.0]) - 1.5)))
    assert area(right[0]) < area(wrong[0])
    assert area(right[1]) > area(wrong[1])


def test_a_curve_begins_and_ends_with_the_whole_and_the_empty_image():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    images, label = torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        deleted, inserted = deletion_curves(network, images, torch.rand(5, 2, 2), label, 7)
        whole = network(images).softmax(1).gather(1, label[:, None])[:, 0]
    assert deleted.shape == inserted.shape == (5, 8)
    torch.testing.assert_close(deleted[:, 0], whole)
    torch.testing.assert_close(inserted[:, -1], whole)
    torch.testing.assert_close(deleted[:, -1], inserted[:, 0])
    assert deletion_curves(network, images, torch.rand(5, 2, 2), label)[0].shape == (5, 21)


def test_the_area_is_the_trapezoidal_one():
    assert area(torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])).tolist() == pytest.approx([0.5, 1.0])
