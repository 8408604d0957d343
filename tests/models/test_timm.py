import pytest
import torch

from trust_exp.errors import UserError
from trust_exp.models.timm import timm_model


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (3, 64, 64)), ("resnet18", (1, 28, 28)), ("vit_tiny_patch16_224", (3, 48, 64))],
)
def test_a_model_of_timm_takes_the_data_as_they_are(name, shape):
    model = timm_model(shape, 7, name).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_pixels_are_normalised_as_the_model_was_trained():
    model = timm_model((3, 32, 32), 2, "resnet18")
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(model[1].pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    assert torch.allclose(model[0](images), (images - mean) / std, atol=1e-6)
    own = timm_model((3, 32, 32), 2, "resnet18", mean=[0.0] * 3, std=[1.0] * 3)
    assert torch.equal(own[0](images), images)


def test_options_reach_the_model():
    dropped = timm_model((3, 32, 32), 2, "resnet18", options={"drop_rate": 0.25})
    assert dropped[1].drop_rate == 0.25


@pytest.mark.parametrize(
    ("shape", "name", "options", "message"),
    [
        ((3, 32, 32), "resnet19", {}, "timm has no model 'resnet19'; it has resnet1"),
        ((2,), "resnet18", {}, r"needs images; the data have the shape \(2,\)"),
        ((3, 32, 32), "resnet18", {"depth_of": 3}, "timm cannot make resnet18 with .*depth_of"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_sentence(shape, name, options, message):
    with pytest.raises(UserError, match=message):
        timm_model(shape, 2, name, options=options)
