"""ProtoPNet: a classifier that scores an image by the distance of its closest patch to each prototype."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.explain.patches import log_similarity, squared_distances
from trust_exp.models.tokens import TokenReader

NOWHERE = -1  # source of a prototype that is not a patch yet


def cycle_file(folder: Path, cycle: int) -> Path:
    """The file in a run's folder with the network after that many cycles of training."""
    return folder / "cycles" / f"{cycle}.pt"


class Closest(NamedTuple):
    """The patch of each image closest to each prototype: squared distance float32 and place int64, [B, P]."""

    distance: Tensor
    place: Tensor


class ProtoPNet(nn.Module):
    """Maps images to logits [B, N]: weighted sums of the prototypes' similarity to their closest patches.

    The tokens of a network without its head pass through two linear layers and a sigmoid, so features are in [0, 1].
    Each class has prototypes in that space.

    Args:
        reader: the network as tokens; its head is not used.
        per_class: prototypes of each class.
        width: of the features and prototypes.

    Raises:
        UserError: if the network has only a vector before its head, not a map.

    Source: Chen et al. 2019, sec. 2.1; layers and their start as released.
    """

    source: Tensor
    label: Tensor

    def __init__(self, reader: TokenReader, per_class: int, width: int) -> None:
        super().__init__()
        if reader.grid == (1, 1):
            raise UserError(
                "prototypes that are patches need a network that keeps places up to its head, such as "
                "model=cifar_resnet20 or model=timm; this one has a single place there"
            )
        classes, features = reader.weight.shape
        self.reader = reader
        reader.network.get_submodule(reader.head_name).requires_grad_(False)
        new = nn.Linear(features, width), nn.Linear(width, width)
        self.add_on = nn.Sequential(new[0], nn.ReLU(), new[1], nn.Sigmoid())
        for layer in new:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.rand(classes * per_class, width))
        self.register_buffer("label", torch.arange(classes).repeat_interleave(per_class))
        self.register_buffer("source", torch.full((classes * per_class, 2), NOWHERE))  # index of the sample, place
        self.last = nn.Linear(classes * per_class, classes, bias=False)
        self.last.weight.data = torch.where(self.own, 1.0, -0.5)

    @property
    def own(self) -> Tensor:
        """The prototypes of each class, bool [N, P]."""
        return self.label == torch.arange(len(self.last.weight), device=self.label.device)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.closest(self.features(images)).distance)

    def features(self, images: Tensor) -> Tensor:
        """Features in [0, 1], [B, T, D], one row for each place of the reader's grid."""
        return self.added(self.reader(images)[0])

    def added(self, tokens: Tensor) -> Tensor:
        """Features [B, T, D] of the reader's tokens, in float32 at any precision, because distances compare them."""
        with torch.autocast(tokens.device.type, enabled=False):
            out: Tensor = self.add_on(self.reader.patches(tokens).float())
        return out

    def distances(self, features: Tensor) -> Tensor:
        """Squared distances between features and prototypes, [B, P, T]."""
        with torch.autocast(features.device.type, enabled=False):
            return squared_distances(features, self.prototypes)

    def closest(self, features: Tensor) -> Closest:
        """The closest patch of each image to each prototype."""
        return Closest(*self.distances(features).min(2))

    def logits(self, distance: Tensor, weight: Tensor | None = None) -> Tensor:
        """[B, N] from the squared distances to the closest patches, [B, P]; ``weight`` replaces the last layer's.

        In float32 at any precision: the part that all classes share is far larger than their differences.
        """
        with torch.autocast(distance.device.type, enabled=False):
            return F.linear(log_similarity(distance), self.last.weight if weight is None else weight)
