"""What a head reads is found in networks of all kinds, and its logits are those of the network."""

import pytest
import torch
from torch import nn

from trust_exp.errors import UserError
from trust_exp.models.cifar_resnet import cifar_resnet
from trust_exp.models.nets import conv_net, mlp
from trust_exp.models.preact_resnet import preact_resnet18
from trust_exp.models.timm import timm_model
from trust_exp.models.tokens import TokenReader

KINDS = [
    ("resnet10t", (6, 6), False, None),
    ("convnext_atto", (7, 7), False, "norm"),
    ("poolformer_s12", (7, 7), False, "norm"),
    ("vit_tiny_patch16_224", (14, 14), True, None),
    ("swin_tiny_patch4_window7_224", (7, 7), False, None),
]
MORE = [
    ("vgg11_bn", (1, 1), False, None),
    ("densenet121", (7, 7), False, None),
    ("regnetx_002", (7, 7), False, None),
    ("efficientnet_b0", (7, 7), False, None),
    ("mobilenetv3_small_050", (1, 1), False, None),
    ("convnextv2_atto", (7, 7), False, "norm"),
    ("cait_xxs24_224", (14, 14), True, None),
    ("xcit_nano_12_p16_224", (14, 14), True, None),
    ("mixer_s32_224", (7, 7), False, None),
    ("beit_base_patch16_224", (14, 14), False, "norm"),
    ("vit_small_patch14_reg4_dinov2", (37, 37), True, None),
    ("coatnet_nano_rw_224", (7, 7), False, None),
]


def assert_identity(reader: TokenReader, images: torch.Tensor) -> None:
    with torch.no_grad():
        tokens, logits = reader(images)
        assert torch.equal(logits, reader.network(images))
        again = reader.pooled(tokens) @ reader.weight.mT + reader.bias
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    height, width = reader.grid
    assert reader.patches(tokens).shape[1] == height * width


@pytest.mark.parametrize(
    ("name", "grid", "class_token", "norm"),
    [*KINDS, *(pytest.param(*kind, marks=pytest.mark.slow) for kind in MORE)],
    ids=[kind[0] for kind in [*KINDS, *MORE]],
)
def test_the_logits_of_timms_networks_are_linear_in_their_tokens(name, grid, class_token, norm):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5).eval()
    shape = network.pretrained_cfg["input_size"]
    reader = TokenReader(network, shape)
    assert reader.grid == grid
    assert reader.layout.class_token == class_token
    assert norm is None or norm in str(reader.layout.norm)
    assert_identity(reader, torch.rand(3, *shape))


@pytest.mark.parametrize(
    ("make", "shape", "grid"),
    [
        (lambda: conv_net((1, 28, 28), 10, [[16, 4, 2, 1], [32, 4, 2, 1]], [100], "relu"), (1, 28, 28), (1, 1)),
        (lambda: preact_resnet18((3, 32, 32), 10, [8, 8, 8, 8]), (3, 32, 32), (4, 4)),
        (lambda: cifar_resnet((3, 32, 32), 10, 8, [0.5] * 3, [0.2] * 3), (3, 32, 32), (8, 8)),
        (lambda: cifar_resnet((3, 48, 32), 10, 8), (3, 48, 32), (12, 8)),
        (lambda: timm_model((3, 64, 96), 7, "resnet18"), (3, 64, 96), (2, 3)),
        (lambda: mlp((2,), 2, [10, 8]), (2,), (1, 1)),
    ],
    ids=["conv_2c2f", "preact_resnet18", "cifar_resnet", "not square", "timm", "mlp"],
)
def test_the_logits_of_the_projects_networks_are_linear_in_their_tokens(make, shape, grid):
    torch.manual_seed(0)
    network = make().train()
    reader = TokenReader(network, shape)
    assert network.training, "it is left as it was"
    assert reader.grid == grid
    assert_identity(reader.eval(), torch.rand(3, *shape))


class ClassToken(nn.Module):
    """A transformer's last steps: a token of all patches before them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).mT
        return self.head(self.norm(torch.cat([tokens.cumsum(1)[:, -1:] ** 2, tokens], 1))[:, 0])


def test_the_tokens_of_a_network_with_a_class_token_can_be_chosen():
    torch.manual_seed(0)
    images, network = torch.rand(2, 3, 16, 16), ClassToken()
    with torch.no_grad():
        for chosen, material in (("all", 17), ("class", 1), ("patches", 16)):
            reader = TokenReader(network, (3, 16, 16), chosen)
            tokens, logits = reader(images)
            assert tokens.shape == (2, 17, 6)
            assert reader.material(tokens).shape[1] == material
            read = reader.pooled(tokens)
            torch.testing.assert_close(read, tokens[:, 1:].mean(1) if chosen == "patches" else tokens[:, 0])
            same = torch.allclose(read @ reader.weight.mT + reader.bias, logits, atol=1e-5)
            assert same == (chosen != "patches"), "the mean of the patches makes another classifier"
    with pytest.raises(UserError, match=r"tokens=patches is for networks with a class token"):
        TokenReader(cifar_resnet((3, 32, 32), 10, 8), (3, 32, 32), "patches")


def test_a_network_without_a_linear_head_is_refused():
    class Squared(nn.Sequential):
        def forward(self, x):
            return super().forward(x) ** 2

    with pytest.raises(UserError, match="the last layer of Squared is not linear"):
        TokenReader(Squared(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))
    with pytest.raises(UserError, match="the last layer of Sequential is not linear"):
        TokenReader(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()), (3, 2, 2))


def test_a_head_that_reads_what_no_module_gives():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2 * 4 * 4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).relu().flatten(1))

    reader = TokenReader(Functional(), (3, 6, 6)).eval()
    assert reader.grid == (1, 1)
    assert_identity(reader, torch.rand(3, 3, 6, 6))


def test_the_largest_map_is_taken():
    """The average is a map of one place; the layer before it shows where."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert TokenReader(network, (3, 10, 10)).layout.module == "1"
