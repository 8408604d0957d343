"""The network of an earlier run without its last layer, frozen, and a new head for other classes."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.models.nets import start_kaiming


class Frozen(nn.Sequential):
    """Layers that stay as they are: their parameters take no gradient, and they are always in eval mode.

    So batch norm keeps its statistics. What flows through still has a gradient with respect to the input.
    """

    def __init__(self, layers: "OrderedDict[str, nn.Module]") -> None:
        super().__init__(layers)
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        super().train(False)
        return self


def frozen_features(
    shape: tuple[int, ...], classes: int, source: str | Path, network: Mapping[str, Any] | None = None
) -> nn.Sequential:
    """features -> head for inputs of ``shape``: the network of a run without its last layer, and ``new_head``.

    Args:
        source: the folder of a run, its file of weights, or a file of weights alone.
        network: the checked node of the model behind a file of weights alone.

    Raises:
        UserError: if it is not said which network that is, or its weights do not fit it or the data.
    """
    from trust_exp.config import build

    source = Path(source)
    folder = source if source.is_dir() else source.parent
    alone = not (folder / "config.json").is_file() or (source.is_file() and source.name != "weights.pt")
    if alone == (network is None):
        raise UserError(
            f"the file {source} does not say which network it is of: +model@model.network=<model>"
            if alone
            else f"the run in {folder} says which network it has; leave out model.network"
        )
    node = network if network is not None else _node_of(folder, shape)
    try:
        model = build({**node, **({"pretrained": False} if "pretrained" in node else {})}, shape=shape, classes=classes)
        layers = without_head(model, _read(folder / "weights.pt" if source.is_dir() else source))
    except UserError as error:
        raise UserError(f"source {source}: {error}") from error
    with torch.no_grad():
        found = layers(torch.zeros(1, *shape))
    if found.dim() != 2:
        raise UserError(f"source {source}: its features have the shape {tuple(found.shape[1:])}; a head needs a vector")
    return nn.Sequential(OrderedDict(features=layers, head=new_head(found.shape[1], classes)))


def new_head(features: int, classes: int) -> nn.Sequential:
    """Linear(K, K) - ReLU - Linear(K, N), initialised Kaiming normal, biases 0.

    Source: Losch 2024, table 3.2, where it is [K, N]; the ReLU as in the released code.
    """
    head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, classes))
    start_kaiming(head)
    return head


def without_head(model: nn.Module, state: Mapping[str, Tensor]) -> Frozen:
    """The layers of ``model`` up to its head, frozen, with the weights of ``state``; the model is used up.

    Args:
        model: ends in a child ``head``, or in a network of timm.
        state: of the whole model, for any number of classes.

    Raises:
        UserError: if the model has no head that can be taken off, or the weights do not fit.
    """
    children = OrderedDict(model.named_children())
    before = set(model.state_dict())
    last: Any = next(reversed(children.values()), None)
    if next(reversed(children), None) == "head":
        children.popitem()
    elif last is not None and hasattr(last, "reset_classifier"):
        last.reset_classifier(0)
    else:
        raise UserError(f"{type(model).__name__} has no head that could be taken off: it must end in a child 'head'")
    layers = Frozen(children)
    lost = before - set(layers.state_dict())
    try:
        layers.load_state_dict({name: value for name, value in state.items() if name not in lost}, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 2)[1].split())
        raise UserError(f"the weights do not fit the network for these data: {reason}") from error
    return layers


def _node_of(folder: Path, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """The model of a run, if it takes inputs of ``shape``."""
    from trust_exp.references import at_paths
    from trust_exp.runs import Run

    run = Run(folder)
    took = (run.read("result.json") or {}).get("input_shape")
    if took is not None and tuple(took) != tuple(shape):
        raise UserError(
            f"source {folder.name} was trained on inputs of the shape {tuple(took)}; these have {tuple(shape)}"
        )
    stored = run.read("config.json") or {}
    node: Mapping[str, Any] = at_paths(stored["config"], "model", folder.parent)
    return node


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as weights: {reason}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state of a network")
    return state
