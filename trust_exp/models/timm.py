"""Any image classifier of the timm library."""

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trust_exp.errors import UserError
from trust_exp.lipschitz.layers import Normalize
from trust_exp.models.nets import start_kaiming
from trust_exp.models.preact_resnet import scatter_scales


def timm_model(
    shape: tuple[int, ...],
    classes: int,
    architecture: str,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    init: str = "timm",
) -> nn.Sequential:
    """normalize -> features -> head, for images in [0, 1] of ``shape`` (C, H, W).

    A network whose last layer is not linear on a flat vector stays whole: normalize -> network.

    Args:
        architecture: timm's name, such as ``resnet18``, with or without the tag of pretrained weights.
        pretrained: download timm's weights; the last layer is new unless the number of classes is the same.
        mean, std: of the pixels, one value a channel; None: those the network was trained with, for colour images.
        options: further arguments of ``timm.create_model``.
        init: "timm", or "released": Kaiming normal, biases 0, scales of batch norm ~ N(1, 0.02), the rest as in timm.

    Raises:
        UserError: if the data are not images, or timm has no such model or refuses the options.
    """
    import timm

    if len(shape) != 3:
        raise UserError(f"a model of timm needs images; the data have the shape {shape}")
    if architecture.split(".")[0] not in (known := timm.list_models()):
        near = ", ".join(difflib.get_close_matches(architecture, known, n=3)) or "none of a like name"
        raise UserError(
            f"timm has no model {architecture!r}; it has {near} (python -c 'import timm; print(timm.list_models())')"
        )
    given: dict[str, Any] = {"in_chans": shape[0], "num_classes": classes, "pretrained": pretrained, **(options or {})}
    config = timm.models.get_pretrained_cfg(architecture)
    if config is not None and config.fixed_input_size:
        given.setdefault("img_size", shape[1:])
    try:
        network = timm.create_model(architecture, **given)
    except (TypeError, RuntimeError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm cannot make {architecture} with {given}: {reason}") from error
    if init == "released":
        start_kaiming(network)
        scatter_scales(network)
    pretrained_config: Any = network.pretrained_cfg
    if shape[0] != 3:
        pretrained_config = {"mean": [0.5] * shape[0], "std": [0.5] * shape[0]}
    normalize = Normalize(mean or pretrained_config["mean"], std or pretrained_config["std"])
    return nn.Sequential(OrderedDict(normalize=normalize, **_parts(network, shape)))


@torch.no_grad()
def _parts(network: nn.Module, shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """Features and head if one image shows that the network is head(features), else the whole network."""
    pretrained_config: Any = network.pretrained_cfg
    name = pretrained_config.get("classifier")
    head = network.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(head, nn.Linear):
        return {"network": network}
    training, image = network.training, torch.linspace(0, 1, int(torch.Size(shape).numel())).reshape(1, *shape)
    try:
        expected = network.eval()(image)
    except RuntimeError as error:
        architecture = pretrained_config["architecture"]
        raise UserError(f"timm's {architecture} cannot take images of {shape}: {error}") from error
    network.set_submodule(name, nn.Identity())
    features = network(image)
    network.train(training)
    if features.shape == (1, head.in_features) and torch.equal(head(features), expected):
        return {"features": network, "head": head}
    network.set_submodule(name, head)
    return {"network": network}
