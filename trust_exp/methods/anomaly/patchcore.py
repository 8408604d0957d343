"""PatchCore: patches of images, scored by their distance to normal ones (Roth et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from trust_exp.data.batch import DatasetInfo
from trust_exp.methods.anomaly.core import coreset, nearest, reweighted
from trust_exp.methods.anomaly.module import MemoryMethod
from trust_exp.methods.anomaly.networks import Memory
from trust_exp.models.layers import activations, find_layers
from trust_exp.models.outputs import behind
from trust_exp.models.tokens import prefixes
from trust_exp.modes import evaluating
from trust_exp.progress import track
from trust_exp.rng import keyed_generator

WORST = 0.01  # of the patches of an image
SAID = 200_000  # patches; from so many on, the time of the search is shown


class PatchFeatures(nn.Module):
    """Images to patches [B, h w, D]: outputs of some layers, each the mean over its neighbours, side by side.

    Coarser maps are enlarged to the grid of the finest one.

    Args:
        network: a classifier, or a network that explains one.
        layers: see ``models.layers.find_layers``.
        shape: of one image.
        neighbourhood: side of the square of places over which is averaged.
        unit: scale each patch to length 1, so that L2 distances rank as cosine ones do.

    Raises:
        UserError: if a layer does not exist.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], shape: tuple[int, ...], neighbourhood: int, unit: bool
    ) -> None:
        super().__init__()
        self.network, self.neighbourhood, self.unit = behind(network), neighbourhood, unit
        self.layers = [layer.name for layer in find_layers(self.network, layers, shape)]
        example = next(self.network.parameters()).new_zeros(1, *shape)
        with torch.no_grad(), evaluating(self.network):
            sizes = [(one.shape[2], one.shape[3]) for one in self.maps(example)]
        self.grid = max(sizes, key=lambda size: size[0] * size[1])

    def maps(self, image: Tensor) -> list[Tensor]:
        """The output of each layer as [B, C, h, w]."""
        _, found = activations(self.network, image, self.layers)
        return [as_map(found[name], image) for name in self.layers]

    def forward(self, image: Tensor) -> Tensor:
        parts = []
        for found in self.maps(image):
            near = F.avg_pool2d(found, self.neighbourhood, 1, self.neighbourhood // 2, count_include_pad=False)
            parts.append(near if near.shape[2:] == self.grid else F.interpolate(near, self.grid, mode="bilinear"))
        patches = torch.cat(parts, dim=1).flatten(2).mT
        return F.normalize(patches, dim=2) if self.unit else patches


def as_map(output: Tensor, image: Tensor) -> Tensor:
    """A layer's output as [B, C, h, w]: it may be [B, h, w, C], or tokens [B, T, C] with some before the grid."""
    if output.dim() == 3:
        prefix, (height, width) = next(prefixes(output.shape[1], image))
        return output[:, prefix:].mT.unflatten(2, (int(height), int(width)))
    square_last = output.shape[1] == output.shape[2] != output.shape[3]  # Swin keeps channels last
    return output.permute(0, 3, 1, 2) if square_last and image.shape[2] == image.shape[3] else output


class PatchMemory(Memory):
    """Normal patches; ``scores`` [B, M] are of images, ``maps`` [B, M, H, W] of their pixels."""

    gives: tuple[str, ...] = ("scores", "maps")
    kept = ("bank",)
    features: PatchFeatures

    def __init__(self, features: PatchFeatures, models: int, image_score: str, smooth: float) -> None:
        super().__init__(features, models)
        self.image_score, self.smooth = image_score, smooth

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        patches = self.features(image).float()
        found = [self._scored(patches, *self.of(model)) for model in range(self.models)]
        maps = torch.stack([distance for distance, _ in found], dim=1).unflatten(2, self.features.grid)
        maps = F.interpolate(maps, image.shape[2:], mode="bilinear")
        if self.smooth:
            side = 2 * round(4 * self.smooth) + 1
            maps = gaussian_blur(maps, [min(side, 2 * one - 1) for one in maps.shape[:1:-1]], [self.smooth] * 2)
        return {"scores": torch.stack([score for _, score in found], dim=1), "maps": maps}

    def _scored(self, patches: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Distances [B, T] of the patches [B, T, D] to the bank, and scores [B] of the images."""
        distance = nearest(patches.flatten(0, 1), bank)[0].view(patches.shape[:2])
        if self.image_score == "worst":
            most = max(1, round(WORST * distance.shape[1]))
            return distance, distance.topk(most, dim=1).values.mean(1)
        largest = distance.max(1)
        if self.image_score == "largest":
            return distance, largest.values
        worst = patches[torch.arange(len(patches)), largest.indices]
        return distance, largest.values * reweighted(worst, bank)


class PatchCore(MemoryMethod):
    """Keeps a coreset of normal patches for each model."""

    draws = True

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> PatchMemory:
        unit = options["distance"] == "cosine"
        features = PatchFeatures(model, options["layers"], info.shape, options["neighbourhood"], unit)
        return PatchMemory(features, len(info.normal), options["image_score"], options["smooth"])

    def remember(self, features: Tensor) -> tuple[Tensor, ...]:
        patches = features.flatten(0, 1)
        number = max(1, round(self.options["coreset"] * len(patches)))
        if number == len(patches):
            return (patches,)
        memory = f"{patches.nbytes / 2**30:.1f} GiB"
        what = f"choose {number:,} of {len(patches):,} patches of {patches.shape[1]} values, {memory}"
        generator = keyed_generator(self.data.seed, "coreset")
        chosen = coreset(
            patches,
            number,
            generator,
            self.options["projection"],
            lambda steps: track(steps, what, visible=len(patches) >= SAID),
        )
        return (patches[chosen],)
