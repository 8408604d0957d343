"""Any image classifier of the timm library."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from trust_exp.errors import UserError
from trust_exp.lipschitz.layers import Normalize


def timm_model(
    shape: tuple[int, ...],
    classes: int,
    architecture: str,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Sequential:
    """normalize -> network, for images in [0, 1] of ``shape`` (C, H, W).

    Args:
        architecture: a name that timm knows, such as ``resnet18``, with or without the tag of pretrained weights.
        pretrained: download timm's weights; the last layer is new unless the classes are as many.
        mean, std: of the pixels, one value a channel; None: what the network was trained with, of colour images.
        options: further arguments of ``timm.create_model``.

    Raises:
        UserError: if the data are no images, timm has no such model, or does not take the options.
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
    usual: Any = network.pretrained_cfg
    if shape[0] != 3:
        usual = {"mean": [0.5] * shape[0], "std": [0.5] * shape[0]}
    return nn.Sequential(Normalize(mean or usual["mean"], std or usual["std"]), network)
