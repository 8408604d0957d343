"""One vector for each image: its pixels, or what a network gives its last linear layer."""

from torch import Tensor, nn

from trust_exp.models.layers import activations, find_layers
from trust_exp.models.outputs import behind


class Pixels(nn.Module):
    """No network: the values of the image themselves."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)


def pixels(shape: tuple[int, ...], classes: int) -> Pixels:
    """The model ``pixels``."""
    return Pixels()


class PooledFeatures(nn.Module):
    """Images to vectors [B, D]: the input of the network's last linear layer, which is pooled over places.

    Args:
        network: a classifier, a network that explains one, or ``Pixels``.
        shape: of one image.

    Raises:
        UserError: if the network has no linear layer.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = behind(network)
        self.layer = None
        if not isinstance(self.network, Pixels):
            ((self.layer, _, _),) = find_layers(self.network, "last:1", shape, nn.Linear)

    def forward(self, image: Tensor) -> Tensor:
        if self.layer is None:
            found: Tensor = self.network(image)
            return found
        _, inputs = activations(self.network, image, [self.layer], of="input")
        return inputs[self.layer].flatten(1)
