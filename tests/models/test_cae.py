"""Convolutional autoencoders: the counts of the released code, and images of any size."""

import pytest
import torch

from trust_exp.errors import UserError
from trust_exp.models.cae import cae, inception_cae, padding, svdd_lenet


def counts(model):
    """As Keras counts: with the running means and variances of batch norm."""
    running = sum(value.numel() for name, value in model.named_buffers() if "running" in name)
    return running + sum(parameter.numel() for parameter in model.parameters())


def test_the_counts_are_those_of_the_released_code():
    assert counts(inception_cae((1, 28, 28), 10)) == 334_597
    assert counts(cae((1, 28, 28), 10)) == 803_717


def test_deep_svdd_has_no_biases():
    model = svdd_lenet((1, 28, 28), 10)
    assert [tuple(parameter.shape) for parameter in model.encoder.parameters()] == [
        (8, 1, 5, 5),
        (4, 8, 5, 5),
        (32, 196),
    ]
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 7_272
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


@pytest.mark.parametrize("make", [cae, inception_cae, svdd_lenet])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 21, 30)])
def test_images_of_any_size_are_rebuilt_in_their_own(make, shape):
    model, images = make(shape, 2).eval(), torch.rand(2, *shape)
    rebuilt = model(images)
    assert rebuilt.shape == images.shape
    assert ((rebuilt >= 0) & (rebuilt <= 1)).all()
    assert model.pooled(images).shape == (2, 128 if make is inception_cae else model.encode(images).shape[1])


def test_images_lie_in_the_middle_of_their_padding():
    assert padding(28) == (2, 2)
    assert padding(32) == (0, 0)
    assert padding(21) == (1, 2)
    assert padding(21, 4) == (1, 2)
    assert padding(28, 4) == (0, 0)


def test_vectors_are_refused():
    with pytest.raises(UserError, match="needs images; the data have the shape"):
        cae((64,), 2)
