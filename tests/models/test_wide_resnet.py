import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trust_exp.build import build
from trust_exp.errors import UserError
from trust_exp.models.preact_resnet import PreActBlock
from trust_exp.models.wide_resnet import wide_resnet


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(16, 4, 2.7), (16, 10, 17.1), (22, 8, 17.2), (28, 10, 36.5), (40, 4, 8.9)]
)
def test_parameters_in_the_paper(depth, width, millions):
    """Zagoruyko & Komodakis 2016, tables 4 and 5; theirs has a 1x1 shortcut where the channels change."""
    with torch.device("meta"):
        model = wide_resnet((3, 32, 32), 10, depth, width)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (28, 10), (34, 10), (70, 16)])
def test_parameters_by_formula(depth, width):
    with torch.device("meta"):
        model = wide_resnet((1, 28, 28), 7, depth, width)
    count, inputs = 9 * 16, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            count += 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2
            count += inputs * outputs if inputs != outputs else 0
            inputs = outputs
    assert sum(p.numel() for p in model.parameters()) == count + 2 * inputs + 7 * inputs + 7
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    assert len(layers) + 3 == depth  # the paper counts the three shortcuts, not the last layer


@pytest.mark.parametrize(("name", "active"), [("relu", F.relu), ("silu", F.silu)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_forward_agrees_with_the_slow_version(name, active, shape):
    torch.manual_seed(0)
    model = wide_resnet(shape, 4, 16, 2, name).double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    images = torch.rand(2, *shape, dtype=torch.float64)

    def norm(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        scale = layer.weight / (layer.running_var + 1e-5).sqrt()
        return x * scale.view(-1, 1, 1) + (layer.bias - layer.running_mean * scale).view(-1, 1, 1)

    first, *blocks, last, _, _, _ = model.features
    x = F.conv2d(images, first.weight, padding=1)
    for i, block in enumerate(blocks):
        stride = 2 if i in (2, 4) else 1
        a = active(norm(block.norm1, x))
        b = active(norm(block.norm2, F.conv2d(a, block.conv1.weight, stride=stride, padding=1)))
        shortcut = F.conv2d(a, block.shortcut.weight, stride=stride) if i % 2 == 0 else x
        assert (block.shortcut is None) == (i % 2 == 1)
        x = F.conv2d(b, block.conv2.weight, padding=1) + shortcut
    features = active(norm(last, x)).mean((2, 3))
    assert features.shape == (2, 128)
    assert torch.allclose(model.features(images), features, atol=1e-9)
    assert torch.allclose(model(images), features @ model.head.weight.T + model.head.bias, atol=1e-9)


def test_batch_norm_starts_plain():
    model = wide_resnet((3, 8, 8), 4, 10, 1)
    assert all((layer.weight == 1).all() for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    assert sum(isinstance(layer, PreActBlock) for layer in model.modules()) == 3


def test_conf(composed):
    config = composed("method=standard", "dataset=digits", "model=wide_resnet")["model"]
    assert (config["depth"], config["width"]) == (28, 10)
    config = composed("method=standard", "dataset=digits", "model=wide_resnet", "model.depth=10", "model.width=1")
    assert build(config["model"], shape=(1, 8, 8), classes=10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.depth=18", r"model.depth must be 6n \+ 4, such as 10, 28, 34 or 70; got 18"),
        ("model.depth=4", "got 4"),
        ("model.width=0", "model.width must be at least 1; got 0"),
        ("model.activation=tanh", "model.activation must be one of relu, silu; got 'tanh'"),
    ],
)
def test_refusals(composed, override, message):
    with pytest.raises(UserError, match=message):
        composed("method=standard", "dataset=digits", "model=wide_resnet", override)
    if "depth" in override:
        with pytest.raises(UserError, match=message):
            wide_resnet((3, 8, 8), 4, int(override[12:]))
