"""Evals asked while a network is trained: they choose nothing, and leave the training as if they had not been asked."""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from trust_exp.build import build
from trust_exp.callbacks import FiniteLoss
from trust_exp.console import say
from trust_exp.contract import in_order
from trust_exp.data.batch import Split
from trust_exp.data.module import DataModule
from trust_exp.errors import UserError, unknown
from trust_exp.evals.suite import Context, Outcomes, Report, run_within, usable_outcomes
from trust_exp.methods.base import GradientMethod
from trust_exp.modes import evaluating
from trust_exp.results.record import Record
from trust_exp.rng import drawing_from


class Watch(L.Callback):
    """Asks evals at the ends of epochs; the values go to result.json ("watched") and to the loggers.

    Args:
        options: the values of ``WatchConfig``.
        evals: the checked nodes of the evals that its metrics are of, by their names.
        context: of the run; what the training changes is put in when it is looked at.
        losses: read first, so that no network that is lost already is asked.
        record: on the first process.

    Raises:
        UserError: if the split, or an eval on it, does not exist.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        evals: Mapping[str, Mapping[str, Any]],
        context: Context,
        losses: FiniteLoss,
        record: Record | None,
    ) -> None:
        self.every, self.metrics, self.figures = options["every"], list(options["metrics"]), options["figures"]
        self.evals, self.context, self.losses, self.record = in_order(evals), context, losses, record
        self.split = watched_split(options["split"], context.data, self.evals)
        none = options["split"] == "auto" and self.split == "test"
        self.why = (
            f"; dataset={context.data.name} has no validation part (dataset.hold_out=0.1 makes one)" if none else ""
        )
        self.seconds = 0.0  # that it took so far
        self.known: set[int] = set()  # steps that were looked at, before a stop too

    # --- when -----------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        before = self._stored() if self.record is not None else []
        asked = set(self.metrics)
        known = {one["step"] for one in before if one["split"] == self.split and asked <= one["metrics"].keys()}
        self.known = trainer.strategy.broadcast(known)
        if trainer.is_global_zero:
            say(f"fit.watch: {', '.join(self.metrics)} on {self.split}, {self._when()}{self.why}")

    # Before a step and not at the end of an epoch, which a run stopped just there would not see again.
    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, *_: Any) -> None:
        epoch, rest = divmod(trainer.global_step, self._steps_an_epoch(trainer))
        if epoch and not rest and epoch % self.every == 0:
            self._look(trainer, method)

    def on_train_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self._look(trainer, method)

    def on_fit_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self._look(trainer, method)  # of a run that was stopped after its last step, which trains no more

    def _when(self) -> str:
        return "after every epoch" if self.every == 1 else f"after every {self.every} epochs and at the end"

    @staticmethod
    def _steps_an_epoch(trainer: L.Trainer) -> int:
        return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    # --- what -----------------------------------------------------------------------------------------------------

    def _look(self, trainer: L.Trainer, method: Any) -> None:
        step = trainer.global_step
        if step in self.known:
            return
        self.losses.read(trainer)
        began = time.perf_counter()
        epoch = math.ceil(step / self._steps_an_epoch(trainer))  # the one that a training of steps ends in
        with left_alone(method.model), self._figures(epoch) as drawn:
            reports = self._ask(trainer, method, drawn)
        found = self._values(reports)
        self.known.add(step)
        if self.record is not None:
            kept = [path for report in reports.values() for path in report.figures] if self.figures else []
            self._keep({"epoch": epoch, "step": step, "split": self.split, "metrics": found}, kept)
            for logger in trainer.loggers:
                logger.log_metrics({f"watch/{self.split}/{name}": value for name, value in found.items()}, step=step)
        self.seconds += time.perf_counter() - began

    def _ask(self, trainer: L.Trainer, method: GradientMethod, drawn: Path) -> dict[str, Report]:
        """The report of each eval on the network as it is."""
        share_buffers(method.model, trainer.world_size)
        facts = method.facts()
        groups = type(method).class_groups(facts, self.context.info.classes)
        reports: dict[str, Report] = {}
        ran: list[tuple[Mapping[str, Any], Mapping[Split, Outcomes]]] = []
        for name, node in self.evals.items():
            with drawing_from(self.context.seed, "eval", name):
                suite = build({**node, **({"splits": [self.split]} if "splits" in node else {})})
                suite.context = replace(
                    self.context, facts=facts, groups=groups, earlier=usable_outcomes(node, ran), drawn=drawn
                )
                reports[name], outcomes = run_within(suite, trainer)
            ran.append((node, outcomes))
        return reports

    def _values(self, reports: Mapping[str, Report]) -> dict[str, float]:
        """The metrics that are watched, by the names that were given."""
        found = {}
        for name, report in reports.items():
            for row in report.rows:
                if "class" not in row.detail:
                    metric = row.led_by(name).metric
                    found[metric] = found[metric.replace(f"/{self.split}_", "/", 1)] = float(row.value)
        for metric in self.metrics:
            if metric not in found:
                raise unknown("fit.watch: the metric", metric, found)
        return {metric: found[metric] for metric in self.metrics}

    @contextmanager
    def _figures(self, epoch: int) -> Iterator[Path]:
        """Where evals draw: beside the run's figures, or nowhere for long."""
        if self.figures:
            yield self.context.folder / "figures" / "watch" / str(epoch)
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)

    def _stored(self) -> list[dict[str, Any]]:
        return list(self.record.values.get("watched", [])) if self.record is not None else []

    def _keep(self, entry: dict[str, Any], figures: Sequence[Path]) -> None:
        if figures:
            entry["figures"] = [str(path.relative_to(self.context.folder)) for path in figures]
        others = [one for one in self._stored() if one["step"] != entry["step"]]
        self.record.write(watched=sorted([*others, entry], key=lambda one: int(one["step"])))  # type: ignore[union-attr]


def watched_split(asked: str, data: DataModule, evals: Mapping[str, Mapping[str, Any]]) -> Split:
    """The split that is looked at: the one that was asked for, else val if the data have it, else test.

    Raises:
        UserError: if the data have no such split, or an eval looks at the test set alone.
    """
    split: Split = asked if asked != "auto" else "val" if "val" in data.splits else "test"  # type: ignore[assignment]
    data.parent(split)
    for name, node in evals.items():
        if split != "test" and "splits" not in node:
            raise UserError(f"fit.watch: eval={name} looks at test alone, not at {split}; choose fit.watch.split=test")
    return split


@contextmanager
def left_alone(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode while the body runs; afterwards modes and gradients are as they were."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        # eager: a compiled model would be compiled once more, and round otherwise than in the evals of the run
        with evaluating(model), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def share_buffers(model: torch.nn.Module, processes: int) -> None:
    """Give every process the batch-norm statistics of the first, as its next step will."""
    if processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
