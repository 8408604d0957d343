"""Prototypes that are patches of images: distance and similarity of features to them (ProtoPNet)."""

from jaxtyping import Float, Float32
from torch import Tensor


def squared_distances(
    features: Float[Tensor, "*batch T D"], prototypes: Float[Tensor, "P D"]
) -> Float32[Tensor, "*batch P T"]:
    """‖z - p‖² between all features and prototypes, [..., P, T], float32.

    Args:
        features: z, [..., T, D].
        prototypes: p, [P, D].
    """
    prototypes, features = prototypes.float(), features.float()
    centre = prototypes.detach().mean(0)  # same distances, less cancellation in ‖z‖² - 2 z p + ‖p‖²
    prototypes, features = prototypes - centre, features - centre
    product = prototypes @ features.mT
    lengths = features.square().sum(-1)[..., None, :] + prototypes.square().sum(-1)[:, None]
    return (lengths - 2 * product).clamp_min(0)


def log_similarity(squared: Float[Tensor, "*shape"], epsilon: float = 1e-4) -> Float[Tensor, "*shape"]:
    """log((d + 1) / (d + epsilon)) of squared distances d: from log(1 / epsilon) at a prototype down to 0 far from it.

    Source: Chen et al. 2019, sec. 2.1.
    """
    return ((squared + 1) / (squared + epsilon)).log()
