"""The CIFAR ResNets: three stages of 16, 32 and 64 channels, with parameter-free shortcuts (He 2016)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.models.nets import classifier
from trust_exp.models.preact_resnet import stem

WIDTHS = (16, 32, 64)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut subsamples and pads new channels with 0.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution and the shortcut.

    Shapes: [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)].

    Source: He 2016, sec. 4.2, option A.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        before = self.new // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))
        return F.relu(out + shortcut)


def cifar_resnet(
    shape: tuple[int, ...],
    classes: int,
    depth: int = 20,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """normalize (if given) -> features -> head; the names in features match the published weights.

    Args:
        shape: (C, H, W) of the images.
        classes: number of logits.
        depth: 6n + 2 layers, n blocks a stage.
        mean, std: of the pixels, one value a channel.

    Raises:
        UserError: if the data are not images.

    Source: He 2016, sec. 4.2.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv1=stem(shape, WIDTHS[0]), bn1=nn.BatchNorm2d(WIDTHS[0]))
    parts["relu"] = nn.ReLU()
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        blocks = []
        for number in range((depth - 2) // 6):
            blocks.append(CifarBlock(channels, width, 2 if stage and not number else 1))
            channels = width
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    parts.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    stages = ["relu", *(name for name in parts if name.startswith("layer"))]
    return classifier(nn.Sequential(parts), nn.Linear(channels, classes), shape[0], mean, std, stages)
