"""A classifier of images whose places are in a fixed random order."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.methods.base import GradientMethod
from trust_exp.rng import keyed_generator


class Places(nn.Module):
    """Puts the places of images [B, C, H, W] into another order."""

    order: Tensor

    def __init__(self, places: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(places, generator=keyed_generator("shuffle")))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(2)[..., self.order].view_as(image)


class Shuffle(GradientMethod):
    """Cross-entropy of the shuffled network."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(Places(info.shape[1] * info.shape[2]), model)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = F.cross_entropy(self.model(batch.image).float(), batch.label)
        if self.logs_now:
            self.log_step(loss)
        return loss
