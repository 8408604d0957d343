"""Ordinary training: the baseline of every table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.standard.difficulty import DifficultyWatch
from trust_exp.verdicts import predicted


class Standard(GradientMethod):
    """Cross-entropy on clean images; ``StandardConfig`` says which rankings it makes."""

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        *,
        difficulty: Sequence[str] = (),
        vog_snapshots: int = 10,
        vog_per_class: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(model, info, **shared)
        self.watch = DifficultyWatch(difficulty, vog_snapshots, vog_per_class) if difficulty else None

    def training_step(self, batch: Batch, _: int) -> Tensor:
        logits = self.model(batch.image).float()
        loss = F.cross_entropy(logits, batch.label)
        if self.watch is not None:
            self.watch.add(logits.detach(), batch)
        if self.logs_now:
            self.log_step(loss, accuracy=(predicted(logits) == batch.label).float().mean())
        return loss

    def configure_callbacks(self) -> list[L.Callback]:
        return [] if self.watch is None else [self.watch]

    def conclude(self, folder: Path, ending: str) -> list[Path]:
        return [] if self.watch is None else self.watch.conclude(self, folder, ending)

    def facts(self) -> dict[str, Any]:
        return {} if self.watch is None else {"difficulty": self.watch.found}
