"""Layers are found by name, pattern, stage, count and percent in networks of all kinds, in the order of a pass."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trust_exp.errors import UserError
from trust_exp.models.cifar_resnet import cifar_resnet
from trust_exp.models.layers import Layer, activations, find_layers
from trust_exp.models.nets import conv_net, mlp
from trust_exp.models.preact_resnet import preact_resnet18
from trust_exp.models.timm import timm_model
from trust_exp.models.wide_resnet import wide_resnet

SHAPE = (3, 32, 32)
TIMM = {
    "resnet10t": {},
    "vgg11": {"mlp_ratio": 0.01},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "densenet121": {},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "regnetx_002": {},
}
OWN = {
    "conv_net": lambda: conv_net(SHAPE, 10, [[8, 4, 2, 1], [8, 4, 2, 1]], [16], "relu"),
    "cifar_resnet": lambda: cifar_resnet(SHAPE, 10, 8),
    "preact_resnet18": lambda: preact_resnet18(SHAPE, 10, [8, 8, 8, 8]),
    "wide_resnet": lambda: wide_resnet(SHAPE, 10, 10, 1),
}


def names(network: nn.Module, wanted, shape=SHAPE, **options) -> list[str]:
    return [layer.name for layer in find_layers(network, wanted, shape, **options)]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return timm_model(SHAPE, 5, "resnet10t").eval()


class Reversed(nn.Module):
    """Layers that are defined in another order than called, one that is shared, one that never is called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.late, self.early = nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.alias = self.act
        self.unused = nn.Conv2d(3, 3, 1)
        self.pair = nn.LSTM(4, 4)

    def forward(self, images):
        x = self.act(self.late(self.act(self.early(images)))).mean((2, 3))
        return self.head(self.pair(x)[0])


@pytest.mark.parametrize("name", [*TIMM, *OWN])
def test_counted_layers_stand_in_the_order_in_which_they_are_called(name, monkeypatch):
    network = OWN[name]() if name in OWN else timm_model(SHAPE, 5, name, options=TIMM[name])
    network = network.train()
    called: list[nn.Module] = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: called.append(self) or forward(self, x))
    torch.manual_seed(0)
    network(torch.rand(2, *SHAPE))
    monkeypatch.undo()
    state = torch.get_rng_state()
    found = find_layers(network, "last:100%", SHAPE)
    assert [layer.module for layer in found] == called
    assert all(network.get_submodule(layer.name) is layer.module and layer.calls == 1 for layer in found)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())
    assert find_layers(network, 1, SHAPE) == found[-1:]
    assert find_layers(network, 0, SHAPE) == []


def test_the_convolutions_of_a_vgg_are_those_of_the_paper():
    network = timm_model(SHAPE, 5, "vgg11", options=TIMM["vgg11"])
    convolutions = [f"features.features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18)]
    assert names(network, "last:8", kinds=lambda layer: getattr(layer, "kernel_size", None) == (3, 3)) == convolutions
    assert names(network, ["features.3", "features.features.0", "6"]) == [convolutions[place] for place in (0, 1, 2)]


def test_a_residual_networks_shortcuts_come_where_they_are_called(resnet):
    assert names(resnet, "last:6") == [
        "features.layer3.0.conv1",
        "features.layer3.0.conv2",
        "features.layer3.0.downsample.1",
        "features.layer4.0.conv1",
        "features.layer4.0.conv2",
        "features.layer4.0.downsample.1",
    ]


def test_blocks_are_counted_when_they_are_the_kind_that_is_asked_for(resnet):
    block = type(resnet.get_submodule("features.layer1.0"))
    assert names(resnet, "last:50%", kinds=block) == ["features.layer3.0", "features.layer4.0"]
    assert names(resnet, 2, kinds=(block, nn.Linear)) == ["features.layer4.0", "head"]


STAGES = {
    "resnet10t": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "stages.3"],
    "vit_tiny_patch16_224": ["blocks.0", "blocks.1", "blocks.2"],
    "densenet121": ["norm0", "denseblock1", "denseblock2", "denseblock3", "norm5"],
    "mobilenetv2_050": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "efficientnet_b0": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "cifar_resnet": ["relu", "layer1", "layer2", "layer3"],
    "preact_resnet18": ["0", "2", "4", "6", "8"],
    "wide_resnet": ["0", "1", "2", "3"],
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_that_the_network_names(name):
    network = OWN[name]() if name in OWN else timm_model(SHAPE, 5, name, options=TIMM[name])
    expected = [f"features.{stage}" for stage in STAGES[name]]
    expected = [stage.replace("features.", "features.features.") if "dense" in name else stage for stage in expected]
    assert [names(network, f"stage{number}") for number in range(1, len(expected) + 1)] == [[each] for each in expected]
    assert names(network, "stage[0-9]") == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("features.layer3.0.conv2", ["layer3.0.conv2"]),
        ("layer3.0.conv2", ["layer3.0.conv2"]),
        ("layer[34].*.conv2", ["layer3.0.conv2", "layer4.0.conv2"]),
        (["layer4", "layer2", "layer4"], ["layer2", "layer4"]),
        (["stage5", "last:1", "layer4.0"], ["layer4.0.downsample.1", "layer4.0", "layer4"]),
    ],
)
def test_names_and_patterns_are_found_with_and_without_what_leads_to_them(resnet, wanted, expected):
    assert names(resnet, wanted) == [f"features.{name}" for name in expected]


def test_a_percent_is_rounded_as_in_the_thesis():
    vgg = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(13)))
    resnet_units = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(16)))
    for network, printed in (
        (vgg, {30: 4, 31: 4, 53: 7, 54: 7, 77: 10, 100: 13, 0: 0, 1: 1}),
        (resnet_units, {30: 5, 31.3: 5, 50: 8, 81.3: 13, 12.5: 2, 9.375: 2}),
    ):
        assert {share: len(names(network, f"last:{share}%", (3, 1, 1))) for share in printed} == printed


def test_the_order_is_that_of_the_pass_and_a_shared_layer_keeps_its_first_call(caplog):
    network = Reversed()
    with caplog.at_level(logging.WARNING):
        found = find_layers(network, ["late", "early", "alias", "head"], SHAPE)
    assert found == [
        Layer("early", network.early, 1),
        Layer("act", network.act, 2),
        Layer("late", network.late, 1),
        Layer("head", network.head, 1),
    ]
    assert "the layer act is called 2 times in a pass" in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["whole", "part", "in place", "parallel"])
def test_wrapped_networks_have_the_names_of_plain_ones(how):
    network = cifar_resnet(SHAPE, 10, 8).eval()
    plain = names(network, ["layer2.*.conv1", "last:25%"])
    images = torch.rand(2, *SHAPE)
    expected = activations(network, images, plain)[1]
    if how == "part":
        network.features.layer2 = torch.compile(network.features.layer2, backend="eager")
    elif how == "in place":
        network.features.layer2.compile(backend="eager")
    else:
        network = nn.DataParallel(network) if how == "parallel" else torch.compile(network, backend="eager")
    network(images)  # compiled without hooks
    assert names(network, ["layer2.*.conv1", "last:25%"]) == plain
    assert names(network, ["stage3"]) == ["features.layer2"]
    for name, tensor in activations(network, images, plain)[1].items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("wanted", "options", "sentence"),
    [
        ("layer3.0.conv9", {}, r"'layer3.0.conv9' does not exist; did you mean layer3.0.conv.*layer3.0 has conv1, bn1"),
        ("stage7", {}, r"'stage7' does not exist; .* the stages are stage1, stage2, stage3, stage4, stage5$"),
        ("layer3.*.conv9", {}, r"does not exist; did you mean layer3.0.conv"),
        ("zzz", {}, r"'zzz' does not exist; the network has normalize, features, head, conv1"),
        ("features.head.weight", {}, r"does not exist"),
        ("", {}, r"'' does not exist"),
        (15, {}, r"last:15 is beyond the network, which has 14 layers of Conv2d"),
        (-1, {}, r"the number of layers from the end must be at least 0; got -1"),
        ("last:101%", {}, r"last:101% is beyond the network"),
        ("last:2.5", {}, r"last:2.5 is no whole number of layers; a share of them is last:<number>%"),
        ("last:10%", {"kinds": nn.LSTM}, r"last:10%: the network has no layers of LSTM"),
        ("layer3.0.bn1", {"kinds": nn.Conv2d}, r"the layer 'layer3.0.bn1' is a BatchNorm2d; it must be of Conv2d"),
        ("layer3.*.bn1", {"kinds": nn.Conv2d}, r"none of the layers 'layer3.\*.bn1' of Conv2d is used"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(resnet, wanted, options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        find_layers(resnet, wanted, SHAPE, **options)
    assert len(str(caught.value).split(", ")) <= 14


def test_networks_without_stages_or_convolutions_are_refused_in_words():
    with pytest.raises(UserError, match="this network does not say what its stages are"):
        find_layers(OWN["conv_net"](), "stage2", SHAPE)
    with pytest.raises(UserError, match="last:1 is beyond the network, which has 0 layers of Conv2d"):
        find_layers(mlp((2,), 2, [4]), 1, (2,))
    with pytest.raises(UserError, match="the layer 'unused' is not called"):
        find_layers(Reversed(), "unused", SHAPE)


# --- what layers give -------------------------------------------------------------------------------------------------


def test_activations_are_what_the_parts_of_the_network_compute():
    torch.manual_seed(0)
    network = preact_resnet18(SHAPE, 10, [4, 4, 4, 4]).eval()
    images = torch.rand(2, *SHAPE)
    logits, found = activations(network, images, ["features.8", "features.4", "head"])
    assert list(found) == ["features.8", "features.4", "head"]
    x = images
    for number in range(9):
        x = network.features[number](x)
        if number in (4, 8):
            torch.testing.assert_close(found[f"features.{number}"], x, rtol=0, atol=0)
    assert torch.equal(logits, network(images))
    assert torch.equal(found["head"], logits)
    given = activations(network, images, ["features.9", "head"], of="input")[1]
    assert torch.equal(given["features.9"], x)
    assert torch.equal(F.linear(given["head"], network.head.weight, network.head.bias), logits)


def test_a_layer_that_works_in_place_changes_no_activation():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(inplace=True), nn.Hardtanh(0, 0.1, inplace=True))
    images = torch.randn(2, *SHAPE)
    convolved = network[0](images).detach()
    assert convolved.min() < 0
    output, found = activations(network, images, ["0", "1", "2"])
    assert torch.equal(found["0"], convolved)
    assert torch.equal(found["1"], convolved)
    assert torch.equal(found["2"], convolved.relu())
    assert torch.equal(output, convolved.clamp(0, 0.1))
    assert torch.equal(activations(network, images, ["2"], of="input")[1]["2"], convolved)


@pytest.mark.parametrize("of", ["output", "input"])
def test_gradients_flow_to_activations_and_through_them(resnet, of):
    images = torch.rand(2, *SHAPE, requires_grad=True)
    logits, found = activations(resnet, images, ["features.layer4", "head"], of=of)
    ours = torch.autograd.grad(logits[:, 1].sum(), [images, *found.values()], retain_graph=True)
    (plain,) = torch.autograd.grad(resnet(images)[:, 1].sum(), images)
    torch.testing.assert_close(ours[0], plain, rtol=0, atol=0)
    expected = torch.zeros(2, 5) if of == "output" else resnet.head.weight[1].expand(2, -1)
    if of == "output":
        expected[:, 1] = 1
    torch.testing.assert_close(ours[2], expected)
    assert ours[1].abs().sum() > 0
    again = found["head"] if of == "output" else resnet.head(found["head"])
    assert torch.equal(torch.autograd.grad(again[:, 1].sum(), images)[0], plain)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_activations_need_no_gradients(resnet, mode):
    with mode():
        logits, found = activations(resnet, torch.rand(2, *SHAPE), ["features.layer1"])
    assert not logits.requires_grad
    assert found["features.layer1"].shape == (2, 64, 8, 8)


@pytest.mark.parametrize("of", ["output", "input"])
def test_no_hook_stays_behind_an_error(of):
    network = Reversed()
    with pytest.raises(RuntimeError):
        activations(network, torch.rand(2, 4, 8, 8), ["late", "act"], of=of)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_activations_that_are_no_tensor_are_refused_and_a_shared_layer_gives_its_first():
    network, images = Reversed(), torch.rand(2, *SHAPE)
    with pytest.raises(UserError, match="the layer 'pair' has no single tensor as its output, but a tuple"):
        activations(network, images, ["pair"])
    with pytest.raises(UserError, match="the layer 'unused' is not called"):
        activations(network, images, ["unused"])
    with pytest.raises(UserError, match="the layer 'erly' does not exist; did you mean early"):
        activations(network, images, ["erly"])
    first = activations(network, images, ["act"])[1]["act"]
    assert torch.equal(first, network.early(images).relu())
