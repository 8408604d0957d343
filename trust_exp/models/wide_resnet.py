"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

from collections.abc import Sequence

from torch import nn

from trust_exp.errors import UserError
from trust_exp.models.nets import classifier
from trust_exp.models.preact_resnet import PreActBlock, pooled, stem

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


def wide_resnet(
    shape: tuple[int, ...],
    classes: int,
    depth: int = 28,
    width: int = 10,
    activation: str = "relu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """normalize (if given) -> features -> head: WRN-depth-width, without dropout.

    A 3x3 convolution to 16 channels, then three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times ``width``
    channels; the second and third stage halve the image. Weights start Kaiming normal, biases 0.

    Args:
        shape: (C, H, W) of the images, of any size.
        classes: number of logits.
        depth: 6n + 4: 28, 34, 70, ...
        width: factor of the channels.
        activation: "relu", or "silu" as in Gowal 2020 and the released code of subset adversarial training, whose
            strided convolutions also pad on one side only (not here).
        mean, std: of the pixels, one value a channel.

    Raises:
        UserError: if the data are not images, or there is no network of that depth.

    Source: Zagoruyko & Komodakis 2016, table 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f"model.depth must be 6n + 4, such as 10, 28, 34 or 70; got {depth}")
    active = ACTIVATIONS[activation]
    channels, body, blocks = 16, [stem(shape, 16)], (depth - 4) // 6
    for stage, stride in enumerate((1, 2, 2)):
        outputs = 16 * 2**stage * width
        for block in range(blocks):
            body.append(PreActBlock(channels, outputs, 1 if block else stride, False, active))
            channels = outputs
    head, stages = nn.Linear(channels, classes), range(0, len(body), blocks)
    return classifier([*body, *pooled(channels, active)], head, shape[0], mean, std, stages)
