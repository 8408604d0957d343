"""Rankings of the training samples by their difficulty, made while a network is trained."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.func import functional_call

from trust_exp.attacks.mode import attack_mode
from trust_exp.console import say
from trust_exp.data.batch import Batch
from trust_exp.data.ranking import Ranking, class_means, ranked, write_ranking
from trust_exp.errors import UserError
from trust_exp.methods.base import GradientMethod
from trust_exp.metrics.difficulty import entropy, logit_gradient, standardised_by_class, svar, variance_of_gradients
from trust_exp.progress import track
from trust_exp.saving import load_whole, save_whole
from trust_exp.viz.difficulty import draw_difficulty

OF_LOGITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"entropy": lambda logits, _: entropy(logits), "svar": svar}
UNIT = 2.0**-40  # of sums; an entropy of log 1000 fits into int64 a million times
SNAPSHOTS = Path("rankings", "snapshots")


class DifficultyWatch(L.Callback):
    """Sums the difficulty of samples over training batches, and keeps snapshots of the weights.

    Entropy and SVar are means over all times a sample was trained on: of the network in training mode, of the changed
    image, with the weights of that step. Sums are whole numbers, so that neither the order of the samples nor a stop
    nor the number of processes changes a digit. VoG compares gradients at several points of the training: the weights
    there are kept in the run's folder and the gradients taken at the end, a batch at a time for all points, as the
    gradients of all samples would fill the memory.

    Args:
        measures: entropy, svar, vog.
        snapshots: points of the training for vog; the last one is its end.
        per_class: vog relative to the class, see ``standardised_by_class``.
    """

    def __init__(self, measures: Sequence[str], snapshots: int, per_class: bool) -> None:
        self.measures, self.snapshots, self.per_class = measures, snapshots, per_class
        self.sums: dict[str, Tensor] = {}
        self.found: dict[str, Any] = {}

    def add(self, logits: Tensor, batch: Batch) -> None:
        """Count a batch; logits float32 [B, C]."""
        with torch.no_grad():
            self.sums["times"].index_add_(0, batch.index, torch.ones_like(batch.index))
            for name in self.sums.keys() & OF_LOGITS:
                score = OF_LOGITS[name](logits, batch.label)
                self.sums[name].index_add_(0, batch.index, (score / UNIT).round().long())

    # --- over a training, with stops ------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self.strategy, self.facts = trainer.strategy, trainer.datamodule.sample_facts()  # type: ignore[attr-defined]
        if "vog" in self.measures and not self._steps(method):  # type: ignore[arg-type]
            raise UserError(
                "method.difficulty=[vog] compares the weights of several steps; this training has one, so give more "
                "fit.steps"
            )
        names = ["times", *(name for name in self.measures if name in OF_LOGITS)]
        # each process continues its own sums; the first process holds the total up to the last stop
        before = self.sums if trainer.is_global_zero else {}
        new = {name: torch.zeros(self.facts["samples"], dtype=torch.int64) for name in names}
        self.sums = {name: before.get(name, new[name]).to(method.device) for name in names}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: self._of_all(value) for name, value in self.sums.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.sums = dict(state_dict)

    def on_train_batch_start(self, trainer: L.Trainer, method: Any, *_: Any) -> None:
        # at the step, not at the end of an epoch: a run that is stopped there would not reach that end again
        if "vog" in self.measures and trainer.is_global_zero and trainer.global_step in self._steps(method):
            save_whole(method.model.state_dict(), self._snapshot(Path(trainer.default_root_dir), trainer.global_step))

    def _steps(self, method: GradientMethod) -> list[int]:
        """The optimiser steps before which weights are kept."""
        total = method.total_steps
        return sorted({round(number * total / self.snapshots) for number in range(1, self.snapshots)} - {0, total})

    @staticmethod
    def _snapshot(folder: Path, step: int) -> Path:
        return folder / SNAPSHOTS / f"{step}.pt"

    def _of_all(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        total = self.strategy.reduce(value.clone(), reduce_op="sum")
        return total if isinstance(total, Tensor) else value

    # --- at the end -----------------------------------------------------------------------------------------------

    def conclude(self, method: GradientMethod, folder: Path, ending: str) -> list[Path]:
        """Write ``rankings/<measure>.npz`` and draw them; called on every process. Returns the figures."""
        scores = self._scores(method, folder)
        if not method.trainer.is_global_zero:
            return []
        files = {name: folder / "figures" / f"difficulty_{name}{ending}" for name in scores}
        figures = [self._write(method, folder, name, *found, files[name]) for name, found in scores.items()]
        shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
        return figures

    def _scores(self, method: GradientMethod, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
        """For each measure the samples (int64 [N]) that have a score, and their scores (float64 [N])."""
        totals = {name: self._of_all(value).cpu() for name, value in self.sums.items()}
        times = totals.pop("times")
        met = times.nonzero().squeeze(1)
        scores = {name: (met, total[met].double() * UNIT / times[met]) for name, total in totals.items()}
        if "vog" in self.measures:
            scores["vog"] = self._variances(method, folder)
        return scores

    def _variances(self, method: GradientMethod, folder: Path) -> tuple[Tensor, Tensor]:
        trainer = method.trainer
        model, device = method.model.to(trainer.strategy.root_device), trainer.strategy.root_device
        states = [*self._states(method, folder, device), model.state_dict()]
        score, served = (torch.zeros(self.facts["samples"], device=device) for _ in range(2))
        loader = trainer.datamodule.eval_loader("train")  # type: ignore[attr-defined]
        # eager: a compiled model would be recompiled for weights from outside
        with attack_mode(model), torch.compiler.set_stance("force_eager"):
            for batch in track(loader, "vog", visible=trainer.is_global_zero):
                if len(batch.label):  # else there are more processes than batches
                    views = (partial(functional_call, model, state) for state in states)
                    gradients = (logit_gradient(view, batch.image, batch.label) for view in views)
                    score[batch.index], served[batch.index] = variance_of_gradients(gradients), 1
        index = self._of_all(served).cpu().nonzero().squeeze(1)
        found = self._of_all(score).cpu().double()[index]
        if self.per_class:
            found = standardised_by_class(found, trainer.datamodule.labels("train")[index])  # type: ignore[attr-defined]
        return index, found

    def _states(self, method: GradientMethod, folder: Path, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The snapshots of the weights."""
        for step in self._steps(method):
            if not (path := self._snapshot(folder, step)).exists():
                raise UserError(f"{path} is missing, and vog needs it; force=true restarts the run")
            yield load_whole(path, device)

    def _write(
        self, method: GradientMethod, folder: Path, name: str, index: Tensor, score: Tensor, figure: Path
    ) -> Path:
        """Write a ranking and draw it; what it says of the classes is kept in ``found``."""
        ranking = ranked(name, index.numpy(), score.numpy(), self.facts, folder.name.rpartition("-")[2])
        write_ranking(folder / "rankings" / f"{name}.npz", ranking)
        data: Any = method.trainer.datamodule  # type: ignore[attr-defined]
        if (missing := data.size("train") - len(index)) > 0:
            say(f"rankings/{name}.npz leaves out {missing} training samples that training never used")
        labels, classes = data.labels("train").numpy(), method.info.classes
        self.found[name] = _of_classes(ranking, labels, classes)
        return draw_difficulty(figure, ranking.score, labels[ranking.index], classes, name)


def _of_classes(ranking: Ranking, labels: Any, names: Sequence[str]) -> dict[str, Any]:
    """The mean of each class that has ranked samples, the hardest first, for result.json."""
    means = class_means(ranking, labels, len(names))
    ordered = sorted((-mean, number) for number, mean in enumerate(means.tolist()) if mean == mean)
    return {"samples": len(ranking.index), "classes": {names[number]: -mean for mean, number in ordered}}
