import pytest
import torch
from torch import nn

from trust_exp.build import build
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


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_a_network_is_taken_apart_into_features_and_head(name):
    import timm

    shape = (3, 64, 64)
    torch.manual_seed(0)
    model = timm_model(shape, 7, name)
    assert [child for child, _ in model.named_children()] == ["normalize", "features", "head"]
    assert model.training
    torch.manual_seed(0)
    options = {"img_size": 64} if name.startswith("vit") else {}
    whole = timm.create_model(name, num_classes=7, **options).eval()
    images = torch.rand(2, *shape)
    expected = whole((images - model.normalize.mean.view(3, 1, 1)) / model.normalize.std.view(3, 1, 1))
    assert torch.allclose(model.eval()(images), expected, atol=1e-5)
    features = model.features(model.normalize(images))
    assert features.shape == (2, model.head.in_features)
    model.head = nn.Linear(model.head.in_features, 3)
    assert model(images).shape == (2, 3)


def test_a_network_with_more_than_one_head_stays_whole():
    model = timm_model((3, 224, 224), 7, "deit_tiny_distilled_patch16_224")
    assert [child for child, _ in model.named_children()] == ["normalize", "network"]


def test_images_that_a_network_cannot_take_are_refused():
    with pytest.raises(UserError, match=r"timm's densenet121 cannot take images of \(3, 8, 8\): "):
        timm_model((3, 8, 8), 7, "densenet121")


def test_resnet50_is_torchvisions_and_starts_as_released(composed):
    from torchvision.models import resnet50

    config = composed("method=standard", "dataset=digits", "model=resnet50")["model"]
    torch.manual_seed(0)
    model = build(config, shape=(3, 64, 64), classes=200)
    with torch.device("meta"):
        other = resnet50(num_classes=200)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in other.parameters())
    strides = [
        [layer.stride for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
        for net in (model, other)
    ]
    assert strides[0] == strides[1]
    scales = torch.cat([layer.weight for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.001)
    assert scales.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.head.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)
    assert not model.head.bias.any()
    convs = [layer for layer in model.features.modules() if isinstance(layer, nn.Conv2d)]
    assert all(c.weight.std().item() == pytest.approx((2 / c.weight[0].numel()) ** 0.5, rel=0.05) for c in convs)


def test_pretrained_weights_are_not_drawn_anew(composed):
    with pytest.raises(UserError, match=r"model\.init=released would overwrite pretrained weights"):
        composed("method=standard", "dataset=digits", "model=resnet50", "model.pretrained=true")


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
