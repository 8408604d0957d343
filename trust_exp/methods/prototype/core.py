"""ProtoPNet's losses and the stages of its training. Squared distances to the closest patch are [B, P]."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trust_exp.models.protopnet import NOWHERE

Part = Literal["warm", "joint", "last"]


class Stage(NamedTuple):
    """The part of the network that is trained at a step.

    ``cycle``: complete cycles; ``joint``: how long features have been trained so far, in the unit of the lengths.
    """

    part: Part
    cycle: int
    joint: float


def stage_at(step: int, steps: int, warm: int, joint: int, last: int, cycles: int) -> Stage:
    """The stage at ``step`` of ``steps``: first the new layers, then in turns everything and the last layer.

    Args:
        warm, joint, last: lengths, relative to each other: warm + cycles (joint + last) is the whole training.

    Source: Chen et al. 2019, sec. 2.2.
    """
    whole = warm + cycles * (joint + last)
    at = step * whole - warm * steps  # lengths times steps: whole numbers, so that no step is rounded to another side
    if at < 0:
        return Stage("warm", 0, 0)
    cycle, within = divmod(at, (joint + last) * steps)
    return Stage("joint" if within < joint * steps else "last", cycle, cycle * joint + min(within / steps, joint))


def cluster_cost(distance: Float[Tensor, "B P"], own: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Mean distance of images to the closest prototype of their class.

    Args:
        distance: [B, P].
        own: bool [B, P]: prototypes of the image's class.

    Source: Chen et al. 2019, Eq. 2.
    """
    return distance.masked_fill(~own, torch.inf).amin(1).mean()


def separation_cost(distance: Float[Tensor, "B P"], own: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Mean distance of images to the closest prototype of any other class; training makes it large.

    Source: Chen et al. 2019, Eq. 2, without its sign.
    """
    return distance.masked_fill(own, torch.inf).amin(1).mean()


def connection_to_others(weight: Float[Tensor, "N P"], own: Bool[Tensor, "N P"]) -> Float[Tensor, ""]:
    """Sum of |w| over connections between prototypes and other classes.

    Args:
        weight: of the last layer, [N, P].
        own: bool [N, P]: prototypes of the class.

    Source: Chen et al. 2019, Eq. 4.
    """
    return weight.abs().masked_fill(own, 0).sum()


class Patches(NamedTuple):
    """The closest patch found for each prototype.

    Squared distance [P], features [P, D], and index of the sample and place, int64 [P, 2].
    """

    distance: Float[Tensor, " P"]
    feature: Float[Tensor, "P D"]
    source: Int64[Tensor, "P 2"]

    @classmethod
    def none(cls, prototypes: Float[Tensor, "P D"]) -> "Patches":
        """No patch yet: infinite distances, and the prototypes themselves as features."""
        source = torch.full((len(prototypes), 2), NOWHERE, device=prototypes.device)
        return cls(prototypes.new_full((len(prototypes),), torch.inf), prototypes.clone(), source)

    def or_closer(self, other: "Patches") -> "Patches":
        """The closer patch of each prototype; a tie keeps the patch of ``self``."""
        closer = other.distance < self.distance
        return Patches(
            torch.where(closer, other.distance, self.distance),
            torch.where(closer[:, None], other.feature, self.feature),
            torch.where(closer[:, None], other.source, self.source),
        )


def closest_of_class(
    distance: Float[Tensor, "B P"],
    place: Int64[Tensor, "B P"],
    features: Float[Tensor, "B T D"],
    label: Int64[Tensor, " B"],
    index: Int64[Tensor, " B"],
    prototypes: Int64[Tensor, " P"],
) -> Patches:
    """The closest patch of each prototype among images of its class.

    Args:
        distance, place: of the closest patch of each image, [B, P].
        features: [B, T, D].
        label, index: of the images, int64 [B].
        prototypes: the classes of the prototypes, int64 [P].

    Source: Chen et al. 2019, Eq. 3.
    """
    least, image = distance.masked_fill(label[:, None] != prototypes, torch.inf).min(0)
    where = place.gather(0, image[None])[0]
    return Patches(least, features[image, where], torch.stack([index[image], where], 1))
