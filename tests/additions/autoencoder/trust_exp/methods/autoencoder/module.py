"""A one-class autoencoder: what it cannot reconstruct is new to it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.methods.base import GradientMethod


class Reconstruction(nn.Module):
    """Gives ``scores``: the squared error of each image's reconstruction, [B]."""

    gives = ("scores",)

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, size))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        flat = image.flatten(1)
        return {"scores": (self.body(flat) - flat).square().mean(1)}


class Autoencoder(GradientMethod):
    """Trains on the images of one class."""

    def __init__(self, model: nn.Module, info: DatasetInfo, *, normal: int, width: int, **shared: Any) -> None:
        super().__init__(model, info, **shared)
        self.normal = normal

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> nn.Module:
        channels, height, breadth = info.shape
        return Reconstruction(channels * height * breadth, options["width"])

    def training_step(self, batch: Batch, _: int) -> Tensor:
        known = (batch.label == self.normal).float()
        loss = (self.model(batch.image)["scores"] * known).sum() / known.sum().clamp_min(1)
        if self.logs_now:
            self.log_step(loss)
        return loss
