"""ProtoPNet's training: what a step is in each stage, and how prototypes become patches of training images."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.errors import UserError
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.prototype.config import ProtoPNetConfig
from trust_exp.methods.prototype.core import (
    Patches,
    Stage,
    closest_of_class,
    cluster_cost,
    connection_to_others,
    separation_cost,
    stage_at,
)
from trust_exp.models.protopnet import ProtoPNet, cycle_file
from trust_exp.models.tokens import TokenReader
from trust_exp.modes import evaluating
from trust_exp.saving import save_whole
from trust_exp.verdicts import predicted


class ProtoPNetTraining(GradientMethod):
    """Trains the new layers, then in turns all other layers and, once every prototype is a patch, the last layer.

    The network at the end of each cycle but the last is kept in the run's folder, see ``cycle_file``.

    Args:
        model: a ``ProtoPNet``.
        info: what the data are.
        options: the values of ``ProtoPNetConfig``.

    Source: Chen et al. 2019, sec. 2.2.
    """

    model: ProtoPNet
    in_stages = True

    def __init__(self, model: ProtoPNet, info: DatasetInfo, *, log_every: int = 50, **options: Any) -> None:
        super().__init__(model, info, optimizer=options.pop("optimizer"), log_every=log_every)
        self.config = ProtoPNetConfig(name="protopnet", **options)

    @classmethod
    def network(cls, model: nn.Module, info: DatasetInfo, options: Mapping[str, Any]) -> ProtoPNet:
        reader = TokenReader(model, info.shape)
        reader.check_classes(info)
        return ProtoPNet(reader, options["per_class"], options["width"])

    # --- steps -----------------------------------------------------------------------------------------------------

    def stage(self, step: int) -> Stage:
        """The stage at an optimiser step."""
        config = self.config
        return stage_at(step, self.total_steps, config.warm, config.joint, config.last, config.cycles)

    def on_fit_start(self) -> None:
        config = self.config
        whole, least = config.warm + config.cycles * (config.joint + config.last), min(config.joint, config.last)
        if least * self.total_steps < whole:
            raise UserError(
                f"{config.cycles} cycles of ProtoPNet take {math.ceil(whole / least)} optimiser steps at least; "
                f"this training has {self.total_steps}: give more fit.steps or fit.epochs, or fewer method.cycles"
            )

    def on_train_batch_start(self, *_: Any) -> None:
        # at the step, not at the end of an epoch: a run that is stopped there would not reach that end again
        before, now = self.stage(max(0, self.global_step - 1)), self.stage(self.global_step)
        if before.part != "last" == now.part:
            self.project()
        if now.cycle > before.cycle and self.trainer.is_global_zero:
            save_whole(self.model.state_dict(), cycle_file(Path(self.trainer.default_root_dir), now.cycle))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        part, model, config = self.stage(self.global_step).part, self.model, self.config
        # batch norm is frozen while the last layer is trained, so that prototypes stay the features of their patches
        model.reader.train(part != "last")
        with torch.set_grad_enabled(part == "joint"):
            tokens, _ = model.reader(batch.image)
        with torch.set_grad_enabled(part != "last"):
            distance = model.closest(model.added(tokens)).distance
        weight = model.last.weight if part == "last" else model.last.weight.detach()
        logits, own = model.logits(distance, weight), model.own[batch.label]
        cluster, separation = cluster_cost(distance, own), separation_cost(distance, own)
        loss = F.cross_entropy(logits, batch.label) + config.cluster * cluster - config.separation * separation
        loss = loss + config.others * connection_to_others(weight, model.own)
        if self.logs_now:
            accuracy = (predicted(logits) == batch.label).float().mean()
            self.log_step(loss, accuracy=accuracy, cluster=cluster.detach(), separation=separation.detach())
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        model, config = self.model, self.config
        network = [parameter for parameter in model.reader.parameters() if parameter.requires_grad]
        return [
            {"params": network, "decays": True},
            {"params": list(model.add_on.parameters()), "lr": config.lr_new, "decays": True},
            {"params": [model.prototypes], "lr": config.lr_new, "weight_decay": 0.0, "decays": True},
            {"params": [model.last.weight], "lr": config.lr_last, "weight_decay": 0.0, "decays": False},
        ]

    def lr_factors(self, group: Mapping[str, Any]) -> Callable[[int], float]:
        return self._decay if group["decays"] else lambda _: 1.0

    def _decay(self, step: int) -> float:
        falls = self.stage(step).joint // self.config.decay_every
        return float(self.optimizer["gamma"] ** falls)

    def facts(self) -> dict[str, Any]:
        return {"cycles": self.config.cycles}

    # --- prototypes as patches -------------------------------------------------------------------------------------

    @torch.no_grad()
    def project(self) -> None:
        """Replace every prototype by the closest patch of a training image of its class; on every process.

        A class without images keeps its prototypes. Two prototypes may become the same patch.
        """
        model = self.model
        found = closest_of_all = Patches.none(model.prototypes)
        if self.trainer.world_size > 1:
            for buffer in model.buffers():  # each process has its own batch norm statistics
                torch.distributed.broadcast(buffer, 0)
        with evaluating(model):
            for batch in self.trainer.datamodule.eval_loader("train"):  # type: ignore[attr-defined]
                if len(batch.label):  # else there are more processes than batches
                    features = model.features(batch.image)
                    closest = model.closest(features)
                    here = closest_of_class(*closest, features, batch.label, batch.index, model.label)
                    found = found.or_closer(here)
        for other in self._of_all(found):  # in the same order on every process
            closest_of_all = closest_of_all.or_closer(other)
        model.prototypes.copy_(closest_of_all.feature)
        model.source.copy_(closest_of_all.source)

    def _of_all(self, found: Patches) -> list[Patches]:
        """The patches that each process found."""
        if self.trainer.world_size == 1:
            return [found]
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, tuple(value.cpu() for value in found))
        return [Patches(*(value.to(self.device) for value in part)) for part in parts]
