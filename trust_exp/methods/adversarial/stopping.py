"""Early stopping on robust accuracy: keeps the weights that AutoAttack breaks least on a part of the test set."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from trust_exp.attacks.autoattack import autoattack
from trust_exp.attacks.ball import Norm
from trust_exp.data.module import DataModule
from trust_exp.errors import UserError
from trust_exp.methods.adversarial.config import StoppingConfig
from trust_exp.methods.adversarial.core import held_out_rows


class EarlyStopping:
    """What AutoAttack said at some steps of a training, and the weights of the best of them.

    Args:
        config: how.
        norm, epsilon: of the attack.
        steps: optimiser steps of the whole training.
        data: of which a part of the test set is attacked.

    Raises:
        UserError: if the test set is too small to be parted.
    """

    def __init__(self, config: StoppingConfig, norm: Norm, epsilon: float, steps: int, data: DataModule) -> None:
        self.config, self.norm, self.epsilon, self.data = config, norm, epsilon, data
        self.due_at = sorted({max(1, round(point * steps)) for point in config.at})
        self.rows = held_out_rows(data.size("test"), config.samples, config.seed)
        if not len(self.rows):
            raise UserError(
                f"method.stopping needs at least 2 test samples, one to stop on and one to evaluate; "
                f"dataset={data.name} serves {data.size('test')}"
            )
        self.found: dict[int, float] = {}  # optimiser step -> robust accuracy
        self.best: dict[str, Tensor] | None = None

    def due(self, step: int) -> bool:
        """Whether the weights after ``step`` optimiser steps are to be attacked and were not."""
        return step in self.due_at and step not in self.found

    def check(self, model: nn.Module, step: int, total: Callable[[int], int], rank: int, world: int) -> float:
        """Attack ``model``, and keep its weights if they are the best so far; its robust accuracy.

        Args:
            total: sums a number of robust samples over all processes.
            rank, world: this process and the number of processes; each attacks its share.
        """
        device, robust = next(model.parameters()).device, 0
        for rows in self.rows.split(self.config.batch_size)[rank::world]:
            image, label, *_ = self.data.samples("test", rows)
            result = autoattack(
                model,
                image.to(device),
                label.to(device),
                self.epsilon,
                norm=self.norm,
                version=self.config.version,  # type: ignore[arg-type]  # checked by the schema
                batch_size=len(rows),
                domain=self.data.info.domain,
                index=rows,
            )
            robust += int(result.robust.sum())
        accuracy = total(robust) / len(self.rows)
        if self.best is None or accuracy > max(self.found.values()):
            self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        self.found[step] = accuracy
        return accuracy

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"found": self.found, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was saved."""
        self.found, self.best = state["found"], state["best"]

    def facts(self) -> dict[str, Any]:
        """For a run's record."""
        kept = max(self.found, key=lambda step: (self.found[step], -step), default=None)
        return {
            "stopping_rows": self.rows.tolist(),
            "stopping_accuracy": {str(step): accuracy for step, accuracy in self.found.items()},
            "stopping_step": kept,
        }
