"""PreActResNet-18, a residual network whose blocks normalise and rectify before they convolve (He 2016)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.models.nets import classifier

STRIDES = (1, 2, 2, 2)


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and activation; nothing follows the sum with the shortcut.

    The shortcut is a 1x1 convolution (no bias, no batch norm) of the block's first activation, or the input itself.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution and the shortcut.
        project: make the shortcut a convolution even where the shapes match.
        activation: class of the activations.

    Shapes: [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        project: bool,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.activation = activation()
        project = project or stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.norm1(x))
        residual: Tensor = self.conv2(self.activation(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def preact_resnet18(
    shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int] = (128, 256, 512, 512),
    project: str = "every_block",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """normalize (if given) -> features -> head: a 3x3 convolution to 64 channels, four stages of two blocks, average.

    Weights start as in the released code: Kaiming normal, biases 0, scales of batch norm ~ N(1, 0.02).

    Args:
        shape: (C, H, W) of the images, of any size.
        classes: number of logits.
        widths: channels of the four stages; the stages after the first halve the image. 64, 128, 256, 512 are usual.
        project: whether "every_block" has a convolution as its shortcut, or, as usual, only "where_needed".
        mean, std: of the pixels, one value a channel.

    Raises:
        UserError: if the data are not images.

    Source: the released code of Losch 2024, ch. 3; He 2016 for the usual network.
    """
    every = project == "every_block"
    channels, body = 64, [stem(shape, 64)]
    for width, stride in zip(widths, STRIDES, strict=True):
        body += [PreActBlock(channels, width, stride, every), PreActBlock(width, width, 1, every)]
        channels = width
    head = nn.Linear(channels, classes)
    model = classifier([*body, *pooled(channels)], head, shape[0], mean, std, stages=range(0, len(body), 2))
    scatter_scales(model)
    return model


def stem(shape: tuple[int, ...], channels: int) -> nn.Module:
    """The first convolution, 3x3.

    Raises:
        UserError: if the data are not images.
    """
    if len(shape) != 3:
        raise UserError(f"a residual network needs images; the data have the shape {shape}; an mlp takes any")
    return nn.Conv2d(shape[0], channels, 3, 1, 1, bias=False)


def pooled(channels: int, activation: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """The layers after the last block: [B, channels, H, W] to [B, channels]."""
    return [nn.BatchNorm2d(channels), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def scatter_scales(model: nn.Module) -> None:
    """Draw the scales of all batch norms from N(1, 0.02), as the released code of subset adversarial training does."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
