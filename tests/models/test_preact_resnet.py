import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.build import build
from trust_exp.errors import UserError
from trust_exp.models.preact_resnet import PreActBlock, preact_resnet18

NARROW = [4, 8, 12, 12]


def parameters_by_formula(channels: int, classes: int, widths: list[int], every_block: bool) -> int:
    """First convolution, blocks, last batch norm, last layer, counted with pencil and paper."""
    count, inputs = 9 * channels * 64, 64
    for stage, width in enumerate(widths):
        for block in range(2):
            stride = 2 if stage and not block else 1
            count += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width * width
            if every_block or stride != 1 or inputs != width:
                count += inputs * width
            inputs = width
    return count + 2 * inputs + inputs * classes + classes


def randomised(model: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and shifts of batch norm that are not those of a new network."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
                layer.bias.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
    return model.double().eval()


def slow_forward(state: dict[str, Tensor], images: Tensor, mean, std) -> Tensor:
    """The network from its tensors alone, in the order in which they stand."""
    names = iter(state.items())
    pending = next(names)

    def take() -> tuple[str, Tensor]:
        nonlocal pending
        taken, pending = pending, next(names, ("", None))
        return taken

    def norm(x: Tensor) -> Tensor:
        weight, bias, mean, variance, _ = (take()[1] for _ in range(5))
        scale, shift = (v[None, :, None, None] for v in (weight / (variance + 1e-5).sqrt(), bias))
        return (x - mean[None, :, None, None]) * scale + shift

    if mean is not None:
        take(), take()
    x = (images - torch.tensor(mean or 0.0).view(-1, 1, 1)) / torch.tensor(std or 1.0).view(-1, 1, 1)
    x = F.conv2d(x, take()[1], padding=1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            active = norm(x).clamp_min(0)
            inner = F.conv2d(active, take()[1], stride=stride, padding=1)
            inner = F.conv2d(norm(inner).clamp_min(0), take()[1], padding=1)
            x = inner + (F.conv2d(active, take()[1], stride=stride) if "shortcut" in pending[0] else x)
    x = norm(x).clamp_min(0).sum((2, 3)) / (x.shape[2] * x.shape[3])
    return x @ take()[1].T + take()[1]


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 7)])
@pytest.mark.parametrize("project", ["every_block", "where_needed"])
@pytest.mark.parametrize("widths", [NARROW, [128, 256, 512, 512], [64, 128, 256, 512]])
def test_parameter_count(channels, classes, widths, project):
    with torch.device("meta"):
        model = preact_resnet18((channels, 32, 32), classes, widths, project)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == parameters_by_formula(channels, classes, widths, project == "every_block")


def test_the_usual_network_is_a_resnet18_without_the_batch_norms_that_move():
    """torchvision's ResNet-18, but for a first convolution of 3x3 and for where the batch norms stand."""
    from torchvision.models import resnet18

    with torch.device("meta"):
        other = resnet18(num_classes=10)
        model = preact_resnet18((3, 32, 32), 10, [64, 128, 256, 512], "where_needed")
    count, expected = (sum(p.numel() for p in net.parameters()) for net in (model, other))
    stem = 3 * 64 * (7 * 7 - 3 * 3)
    # There: after the stem, two a block with its outputs, one a shortcut. Here: with its inputs and outputs; the last.
    norms_there = 64 + 4 * (64 + 128 + 256 + 512) + (128 + 256 + 512)
    norms_here = (64 * 4) + (64 + 3 * 128) + (128 + 3 * 256) + (256 + 3 * 512) + 512
    assert count == expected - stem - 2 * norms_there + 2 * norms_here


@pytest.mark.parametrize("project", ["every_block", "where_needed"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 17, 40), (1, 8, 8)])
def test_forward_agrees_with_the_slow_version(project, shape):
    mean, std = ([0.4, 0.5, 0.6][: shape[0]], [0.2, 0.3, 0.25][: shape[0]]) if shape[0] == 3 else (None, None)
    torch.manual_seed(0)
    model = randomised(preact_resnet18(shape, 5, NARROW, project, mean, std))
    images = torch.rand(3, *shape, dtype=torch.float64)
    state = dict(model.state_dict())
    logits = model(images)
    assert logits.shape == (3, 5)
    assert torch.allclose(logits, slow_forward(state, images, mean, std), atol=1e-6)


def test_features_and_head_make_the_network():
    model = preact_resnet18((3, 32, 32), 5, NARROW, mean=[0.5] * 3, std=[0.2] * 3).eval()
    assert [name for name, _ in model.named_children()] == ["normalize", "features", "head"]
    images = torch.rand(2, 3, 32, 32)
    features = model.features(model.normalize(images))
    assert features.shape == (2, 12)
    assert torch.equal(model.head(features), model(images))
    model.head = nn.Linear(12, 3)
    assert model(images).shape == (2, 3)
    assert [name for name, _ in preact_resnet18((1, 8, 8), 5, NARROW).named_children()] == ["features", "head"]


def test_shortcuts():
    x = torch.randn(2, 8, 6, 6)
    for inputs, stride, project, convolves in ((8, 1, False, False), (8, 1, True, True), (8, 2, False, True)):
        block = PreActBlock(inputs, 8, stride, project).eval()
        assert (block.shortcut is not None) == convolves
        nn.init.zeros_(block.conv2.weight)
        active = torch.relu(block.norm1(x))
        expected = F.conv2d(active, block.shortcut.weight, stride=stride) if convolves else x
        assert torch.allclose(block(x), expected, atol=1e-5)
        assert all(layer.bias is None for layer in block.modules() if isinstance(layer, nn.Conv2d))
    assert PreActBlock(4, 8, 1, False).shortcut is not None
    every = preact_resnet18((3, 8, 8), 5, NARROW)
    needed = preact_resnet18((3, 8, 8), 5, NARROW, "where_needed")
    counts = [
        sum(b.shortcut is not None for b in net.modules() if isinstance(b, PreActBlock)) for net in (every, needed)
    ]
    assert counts == [8, 4]  # 64 to 4 channels in the first stage too


def test_weights_start_as_released():
    torch.manual_seed(0)
    model = preact_resnet18((3, 32, 32), 1000, [64, 128, 128, 256])
    scales = torch.cat([layer.weight for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.002)
    assert scales.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert layer.weight.mean().abs() < 5 * (2 / fan_in) ** 0.5 / layer.weight.numel() ** 0.5
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.08)
        if isinstance(layer, nn.BatchNorm2d | nn.Linear):
            assert not layer.bias.any()


def test_it_learns():
    torch.manual_seed(0)
    model = preact_resnet18((1, 8, 8), 2, NARROW)
    images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 2
    images[labels == 1, :, :4] /= 4
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
        optimizer.step()
    assert (model(images).argmax(1) == labels).all()


def test_conf(composed):
    config = composed("method=standard", "dataset=digits", "model=preact_resnet18")["model"]
    assert config["widths"] == [128, 256, 512, 512]
    config = composed("method=standard", "dataset=digits", "model=preact_resnet18", f"model.widths={NARROW}")["model"]
    assert build(config, shape=(1, 8, 8), classes=10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.widths=[64,128,256]", r"one width for each of the four stages; got \[64, 128, 256\]"),
        ("model.widths=[64,0,256,512]", "model.widths must be at least 1; got 0"),
        ("model.project=none", "model.project must be one of every_block, where_needed; got 'none'"),
        ("model.mean=[0.5]", "give both model.mean and model.std"),
        ("model.std=[0.0]", "give both model.mean and model.std"),
    ],
)
def test_refusals(composed, override, message):
    with pytest.raises(UserError, match=message):
        composed("method=standard", "dataset=digits", "model=preact_resnet18", override)


def test_refusal_of_what_is_no_image():
    with pytest.raises(UserError, match=r"a residual network needs images; the data have the shape \(2,\)"):
        preact_resnet18((2,), 2)
