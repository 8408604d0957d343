"""A network's outputs by name: a plain module that returns a tensor gives ``logits``, others return a dictionary."""

from collections.abc import Mapping

from torch import Tensor, nn

from trust_exp.errors import UserError

LOGITS = "logits"


def named(outputs: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The outputs of a network by name."""
    return {LOGITS: outputs} if isinstance(outputs, Tensor) else outputs


def pick(outputs: Tensor | Mapping[str, Tensor], name: str) -> Tensor:
    """One of the outputs of a network.

    Raises:
        UserError: if the network does not give it; the message names those that it gives.
    """
    found = named(outputs)
    if name not in found:
        raise UserError(f"the network gives no {name}; it gives {', '.join(found) or 'nothing'}")
    return found[name]


class Only(nn.Module):
    """A network of which only one output is looked at, as a tensor: for attacks and what else takes plain modules."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, image: Tensor) -> Tensor:
        return pick(self.network(image), self.name)


def behind(network: nn.Module) -> nn.Module:
    """The classifier that a network explains, its attribute ``explained``; the network itself if it has none."""
    found: nn.Module = getattr(network, "explained", network)
    return found


def only(network: nn.Module, name: str) -> nn.Module:
    """The network as a module that returns one of its outputs; a plain one, which gives its logits alone, as it is."""
    gives = getattr(network, "gives", (LOGITS,))
    return network if tuple(gives) == (LOGITS,) and name == LOGITS else Only(network, name)
