"""Early stopping on robust accuracy: keeps the weights that AutoAttack breaks least on held-out samples."""

from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor

from trust_exp.attacks.arguments import Threat
from trust_exp.attacks.auto_attack import autoattack
from trust_exp.data.batch import Split
from trust_exp.data.module import DataModule
from trust_exp.errors import UserError
from trust_exp.methods.adversarial.checks import Check, log_now
from trust_exp.methods.adversarial.config import StoppingConfig
from trust_exp.methods.adversarial.core import fixed_rows


class EarlyStopping(Check):
    """Robust accuracy at some steps of a training, and the weights of the best of them.

    The samples are of the validation split where the data have one. Else they are a part of the test set, which
    eval=autoattack leaves out.

    Args:
        config: steps, samples and version of AutoAttack.
        epsilon, threat: radius, norm and domain of the attack.

    Raises:
        UserError: when the training begins, if the split is missing or too small.
    """

    def __init__(self, config: StoppingConfig, epsilon: float, threat: Threat) -> None:
        self.config, self.epsilon, self.threat = config, epsilon, threat
        self.found: dict[int, float] = {}  # optimiser step -> robust accuracy
        self.best: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: L.Trainer, method: Any) -> None:
        self.data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.due_at = sorted({max(1, round(point * method.total_steps)) for point in self.config.at})
        self.split = split_to_stop_on(self.config.split, self.data)
        self.rows = rows_to_stop_on(self.config, self.data, self.split)

    def between_steps(self, trainer: L.Trainer, method: Any) -> None:
        step = trainer.global_step
        if step not in self.due_at or step in self.found:
            return
        _share_buffers(trainer, method.model)
        accuracy = self._robust_accuracy(trainer, method.model)
        if self.best is None or accuracy > max(self.found.values()):
            self.best = {name: value.detach().cpu().clone() for name, value in method.model.state_dict().items()}
        self.found[step] = accuracy
        log_now(trainer, stopping_accuracy=accuracy)

    def _robust_accuracy(self, trainer: L.Trainer, model: torch.nn.Module) -> float:
        """Robust accuracy of ``model``; each process attacks its share of the batches."""
        device = next(model.parameters()).device
        robust = torch.zeros((), dtype=torch.int64, device=device)
        for rows in self.rows.split(self.config.batch_size)[trainer.global_rank :: trainer.world_size]:
            image, label, *_ = self.data.samples(self.split, rows)
            result = autoattack(
                model,
                image.to(device),
                label.to(device),
                self.epsilon,
                version=self.config.version,  # type: ignore[arg-type]  # checked by the schema
                batch_size=len(rows),
                index=rows,
                **self.threat,
            )
            robust += result.robust.sum()
        return int(trainer.strategy.reduce(robust, reduce_op="sum")) / len(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found, self.best = state_dict["found"], state_dict["best"]

    def facts(self) -> dict[str, Any]:
        """For result.json; ``stopping_rows`` are test samples, which evals leave out."""
        kept = max(self.found, key=lambda step: (self.found[step], -step), default=None)
        return {
            "stopping_split": self.split,
            **({"stopping_rows": self.rows.tolist()} if self.split == "test" else {}),
            "stopping_accuracy": {str(step): accuracy for step, accuracy in self.found.items()},
            "stopping_step": kept,
        }


def split_to_stop_on(chosen: str, data: DataModule) -> Split:
    """The split for ``method.stopping.split``.

    Raises:
        UserError: if the data have no validation split and it was chosen.
    """
    if chosen == "val" and "val" not in data.splits:
        raise UserError(
            f"method.stopping.split=val needs a validation split, and dataset={data.name} has none; give "
            "dataset.hold_out=0.1, or choose method.stopping.split=test"
        )
    return cast(Split, ("val" if "val" in data.splits else "test") if chosen == "auto" else chosen)


def rows_to_stop_on(config: StoppingConfig, data: DataModule, split: Split) -> Tensor:
    """Places of the samples to stop on, int64 [M], among those served: at most ``config.samples``, half of a test set.

    Raises:
        UserError: if nothing would be left to stop on or to evaluate.
    """
    size = data.size(split)
    if split == "test" and size < 2:
        raise UserError(
            "method.stopping needs at least 2 test samples, one to stop on and one to evaluate; "
            f"dataset={data.name} serves {size}"
        )
    if not size:
        raise UserError(
            f"method.stopping needs at least 1 validation sample; dataset={data.name} serves none; give a larger "
            "dataset.hold_out"
        )
    return fixed_rows(size, min(config.samples, size // 2 if split == "test" else size), config.seed)


def _share_buffers(trainer: L.Trainer, model: torch.nn.Module) -> None:
    """Give every process the batch-norm statistics of the first, as DDP does at the next step."""
    if trainer.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
