"""Deep SVDD: codes of normal images are drawn to one point, and the distance to it is the score (Ruff et al. 2018)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trust_exp.data.batch import AnyBatch, DatasetInfo
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.core import contrasted, distant_centre
from trust_exp.methods.anomaly.networks import Filled
from trust_exp.methods.anomaly.training import OneClass, OneClassTraining
from trust_exp.methods.schedules import lr_factor
from trust_exp.models.cae import Autoencoder


class Hypersphere(Filled):
    """Scores by the squared distance of a code to the centre, less the squared radius, which is 0 for a hard boundary.

    ``low`` and ``high`` are the extremes of normal training images after ``contrasted``; 0 and 1 for the network.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    radius: Tensor

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(("low", "high", "centre", "radius"))
        self.autoencoder = autoencoder

    def scaled(self, image: Tensor) -> Tensor:
        """Images [B, C, H, W] as the network takes them."""
        return (contrasted(image) - self.low) / (self.high - self.low)

    def code(self, image: Tensor) -> Tensor:
        """Codes [B, D]."""
        return self.autoencoder.pooled(self.scaled(image))

    def distance(self, image: Tensor) -> Tensor:
        """Squared distances to the centre, [B]."""
        return (self.code(image) - self.centre).square().sum(1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if not self.centre.numel():
            raise UserError(
                "the centre is found after method.pretraining of the training; until then there is no score"
            )
        return {"scores": self.distance(image) - self.radius.square()}


class DeepSvdd(OneClassTraining):
    """An autoencoder of contrasted images first; then its encoder alone is drawn to the centre of its codes."""

    in_stages = True

    def __init__(
        self,
        model: OneClass,
        info: DatasetInfo,
        *,
        boundary: str,
        nu: float,
        pretraining: float,
        pretraining_weight_decay: float,
        radius_from: float,
        **shared: Any,
    ) -> None:
        super().__init__(model, info, **shared)
        self.soft, self.nu, self.radius_from = boundary == "soft", nu, radius_from
        self.pretraining, self.pretraining_weight_decay = pretraining, pretraining_weight_decay

    @classmethod
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> Hypersphere:
        return Hypersphere(model)

    def parts(self, number: int) -> tuple[int, int]:
        """Steps of a model in which the autoencoder is trained, and all of its steps."""
        total = self.batches.consumed(number, self.total_steps)
        return int(self.pretraining * total), total

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{**group, "weight_decay": self.pretraining_weight_decay} for group in super().parameter_groups()]

    def lr_factors(self, group: Mapping[str, Any]) -> Callable[[int], float]:
        first, total = self.parts(group["member"])

        def factor(step: int) -> float:  # each part is a training of its own
            seen = self.batches.consumed(group["member"], step)
            part = (seen, first) if seen < first else (seen - first, total - first)
            return lr_factor(self.optimizer, *part)

        return factor

    def on_train_batch_start(self, batch: list[tuple[int, AnyBatch]], batch_idx: int) -> None:
        for number, _ in batch:
            seen = self.batches.consumed(number)
            if seen == 0:
                self._measure(number)
            if seen == self.parts(number)[0]:
                self._place(number)

    def _measure(self, number: int) -> None:
        """Find the extremes of a model's normal images."""
        sphere, extremes = self._sphere(number), self._over_normals(number, _extremes)
        sphere.low, sphere.high = extremes[:, 0].min(), extremes[:, 1].max()
        if sphere.low == sphere.high:
            raise UserError("every normal training image is constant: nothing is left after contrast normalisation")

    def _place(self, number: int) -> None:
        """Place the centre, and begin the second part with a new state of the optimiser, as the authors do."""
        sphere = self._sphere(number)
        sphere.eval()
        sphere.centre = distant_centre(self._over_normals(number, sphere.code))
        sphere.radius = torch.zeros_like(sphere.centre[0])
        sphere.train()
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        (group,) = (one for one in optimizer.param_groups if one["member"] == number)
        group["weight_decay"] = self.optimizer["weight_decay"]
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)

    def _sphere(self, number: int) -> Hypersphere:
        return self.model.members[number]  # type: ignore[return-value]

    def _over_normals(self, number: int, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Something of each normal training image of a model, [N, ...]."""
        with torch.no_grad():
            (found,) = self.batches.data.encoded("train", [self.batches.rows[number]], of)
        return found.to(self.device)

    def stage(self, number: int) -> int:
        return int(self.batches.consumed(number) >= self.parts(number)[0])

    def loss(self, member: Hypersphere, image: Tensor, *, stage: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        if stage == 0:
            wanted = member.scaled(image)
            error = F.mse_loss(member.autoencoder(wanted), wanted, reduction="sum") / len(image)
            return error, {"error": error}
        distance = member.distance(image)
        if not self.soft:
            return distance.mean(), {"distance": distance}
        square = member.radius.square()
        return square + (distance - square).relu().mean() / self.nu, {"distance": distance, "radius": member.radius}

    def after(self, number: int, parts: dict[str, Tensor]) -> None:
        first, total = self.parts(number)
        if not self.soft or self.batches.consumed(number) - first < self.radius_from * (total - first):
            return
        every: Tensor = self.all_gather(parts["distance"].detach())  # type: ignore[assignment]
        self._sphere(number).radius = every.flatten().sqrt().quantile(1 - self.nu)


def _extremes(image: Tensor) -> Tensor:
    """The least and the largest value of each image after contrast normalisation, [B, 2]."""
    flat = contrasted(image).flatten(1)
    return torch.stack([flat.amin(1), flat.amax(1)], dim=1)
