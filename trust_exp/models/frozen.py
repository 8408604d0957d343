"""The network of an earlier run without its last layer, frozen, and a new head for other classes."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.models.nets import start_kaiming
from trust_exp.models.trained import SourceNetwork, why_unfit


class Frozen(nn.Sequential):
    """Frozen layers: their parameters take no gradient, and they are always in eval mode.

    Batch norm keeps its statistics. Gradients still flow to the input.
    """

    def __init__(self, layers: "OrderedDict[str, nn.Module]") -> None:
        super().__init__(layers)
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        super().train(False)
        return self


def frozen_features(shape: tuple[int, ...], classes: int, source: SourceNetwork) -> nn.Sequential:
    """features -> head for inputs of ``shape``: the network of a run without its last layer, and ``new_head``.

    Raises:
        UserError: if the network has no head that can be taken off, or its weights do not fit it or the data.
    """
    source = source.behind()
    try:
        layers = without_head(source.network, source.state)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from error
    with torch.no_grad():
        found = layers(torch.zeros(1, *shape))
    if found.dim() != 2:
        raise UserError(
            f"source {source.name}: its features have the shape {tuple(found.shape[1:])}; a head needs a vector"
        )
    return nn.Sequential(OrderedDict(features=layers, head=new_head(found.shape[1], classes)))


def new_head(features: int, classes: int) -> nn.Sequential:
    """Linear(K, K) - ReLU - Linear(K, N), initialised Kaiming normal, biases 0.

    Source: Losch 2024, table 3.2, where it is [K, N]; the ReLU as in the released code.
    """
    head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, classes))
    start_kaiming(head)
    return head


def without_head(model: nn.Module, state: Mapping[str, Tensor]) -> Frozen:
    """The layers of ``model`` before its head, frozen, with the weights of ``state``; the model itself is taken apart.

    Args:
        model: ends in a child ``head`` or in a network of timm.
        state: of the whole model, for any number of classes.

    Raises:
        UserError: if the model has no removable head, or the weights do not fit.
    """
    children = OrderedDict(model.named_children())
    before = set(model.state_dict())
    last: Any = next(reversed(children.values()), None)
    if next(reversed(children), None) == "head":
        children.popitem()
    elif last is not None and hasattr(last, "reset_classifier"):
        last.reset_classifier(0)
    else:
        raise UserError(f"{type(model).__name__} has no removable head: it must end in a child named 'head'")
    layers = Frozen(children)
    lost = before - set(layers.state_dict())
    try:
        layers.load_state_dict({name: value for name, value in state.items() if name not in lost}, strict=True)
    except RuntimeError as error:
        raise UserError(why_unfit(error)) from error
    return layers
