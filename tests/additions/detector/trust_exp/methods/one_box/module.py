"""A detector of one box an image."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trust_exp.data.batch import BoxBatch, DatasetInfo
from trust_exp.methods.base import GradientMethod


class Corners(nn.Module):
    """Gives ``boxes``: left, top, right, bottom in pixels, [B, 1, 4]."""

    gives = ("boxes",)

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = shape[-1]
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 32), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"boxes": self.head(self.body(image))[:, None] * self.size}


class OneBox(GradientMethod):
    """Least squares of the corners."""

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> nn.Module:
        return Corners(info.shape)

    def training_step(self, batch: BoxBatch, _: int) -> Tensor:
        loss = ((self.model(batch.image)["boxes"] - batch.boxes) / batch.image.shape[-1]).square().mean()
        if self.logs_now:
            self.log_step(loss)
        return loss
