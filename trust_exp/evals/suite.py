"""Evaluation suites: one question each, answered on any number of devices through Lightning's Trainer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo, Split
from trust_exp.data.module import DataModule
from trust_exp.models.outputs import pick
from trust_exp.results.record import Row
from trust_exp.schema import find_schema

Outcomes = dict[str, Tensor]


def _same(items: Iterable[Any], _: str) -> Iterable[Any]:
    return items


@dataclass
class Context:
    """Everything that a suite may use.

    Attributes:
        model: the network, in eval mode on its device; ``output`` asks it for one of its outputs.
        data: the run's, or the eval's own.
        folder: of the run.
        method: its name, for titles.
        facts: of the training, see ``Method.facts``.
        groups: sets of classes that mean something to the method, by their letter, see ``Method.class_groups``.
        earlier: outcomes of evals that ran before on the same data: what they give -> split -> outcomes.
        drawn: where figures are written; None: among those of the run.
        ending: of the files of figures.
    """

    model: nn.Module
    data: DataModule
    folder: Path
    seed: int = 0
    method: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    earlier: Mapping[str, Mapping[Split, Outcomes]] = field(default_factory=dict)
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = _same
    drawn: Path | None = None
    ending: str = ".png"
    rank: int = 0
    world: int = 1

    @property
    def info(self) -> DatasetInfo:
        return self.data.info

    @property
    def figures(self) -> Path:
        """Where figures are written."""
        return self.folder / "figures" if self.drawn is None else self.drawn

    def figure(self, name: str) -> Path:
        """The file of a figure."""
        return self.figures / f"{name}{self.ending}"

    @property
    def device(self) -> torch.device:
        return next(chain(self.model.parameters(), self.model.buffers())).device

    def output(self, name: str, image: Tensor) -> Tensor:
        """One of the network's outputs for images [B, ...], such as "logits"; the network runs once.

        Raises:
            UserError: if the network does not give it.
        """
        return pick(self.model(image), name)

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


@dataclass
class Report:
    """The rows that a suite found and the figures that it drew."""

    rows: list[Row]
    figures: list[Path] = field(default_factory=list)


class Suite:
    """One question asked of a trained model.

    ``step`` answers it for the samples of a batch, ``finish`` sums up. Whatever the number of devices, ``finish`` sees
    the outcomes of all samples in the order of the data set, so that the numbers are the same. Results that are too
    large to keep for each sample are added up instead: ``add`` in a step, ``totals`` at the end.
    """

    name = "suite"  # leads its metrics, unless the eval has another name
    splits: tuple[Split, ...] = ("test",)
    samples: int | None = None  # only the first so many of a split
    batch_size: int | None = None  # None: the data set's
    passes = 1  # over all splits; a later pass may use what an earlier one found
    unsaved: tuple[str, ...] = ()  # outcomes that are too large for the run's folder

    def __init__(self) -> None:
        self.context: Context
        self.totals: dict[Split, dict[str, Tensor]] = {}
        self._sums: dict[str, ExactSum] = {}

    def check(self, info: DatasetInfo) -> None:
        """Raise UserError if the question cannot be asked of such data; called before anything is trained."""

    def prepare(self) -> None:
        """Called once before the first step, with the model in eval mode on its device."""

    def between(self, outcomes: Mapping[Split, Outcomes]) -> None:
        """Called on every process after each pass but the last, with all outcomes so far; ``totals`` are there too."""

    def rows(self, split: Split) -> Tensor | None:
        """The samples that are asked about, int64 [M], increasing places among those served; None: all of them."""
        return None if self.samples is None else torch.arange(self.context.data.size(split))[: self.samples]

    def step(self, batch: Batch) -> Outcomes:
        """Outcomes of the batch, each a tensor [B, ...]; called with gradients off."""
        raise NotImplementedError

    def add(self, name: str, value: Tensor) -> None:
        """Add a batch's part of a sum over all samples of the split; ``totals[split][name]`` has it after the pass.

        Whole numbers are summed exactly. Others are summed in twice the precision of float64, so that their order,
        which depends on the number of processes, does not show.
        """
        self._sums.setdefault(name, ExactSum()).add(value)

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        """Rows and figures from the outcomes of each split; called on every process, draw on rank 0 only."""
        raise NotImplementedError

    def close_split(self, split: Split) -> None:
        """Sum up over the processes what the steps of a split added."""
        parts = self.context.gather({name: (one.high.cpu(), one.low.cpu()) for name, one in self._sums.items()})
        self._sums = {}
        found: dict[str, ExactSum] = {}
        for part in parts:
            for name, (high, low) in part.items():
                found.setdefault(name, ExactSum()).add(high, low)
        self.totals.setdefault(split, {}).update({name: one.value() for name, one in sorted(found.items())})


class ExactSum:
    """A sum of tensors whose rounding does not show: int64, or float64 with the part that rounding took.

    Source: Knuth 1969, TAOCP 2, sec. 4.2.2 (the error of a sum is a floating-point number, found by six operations).
    """

    high: Tensor
    low: Tensor

    def __init__(self) -> None:
        self._empty = True

    def add(self, value: Tensor, low: Tensor | None = None) -> None:
        """Add a tensor; ``low``: the small part of a sum that is added to this one."""
        value = value.detach()
        value = value.double() if value.is_floating_point() else value.long()
        if self._empty:
            self.high, self.low, self._empty = torch.zeros_like(value), torch.zeros_like(value), False
        total = self.high + value
        if total.is_floating_point():
            back = total - self.high
            self.low = self.low + ((self.high - (total - back)) + (value - back))
            self.low = self.low if low is None else self.low + low
        self.high = total

    def value(self) -> Tensor:
        """The sum, int64 or float64."""
        total = self.high + self.low
        return torch.where(self.high.isfinite(), total, self.high)  # there is no rest of an infinite sum


class Pass:
    """One pass of a suite over one split, whoever hands it the batches; after the last it has the suite's report.

    Args:
        outcomes: shared by the splits and passes of a suite: every sample's, in the order of the data set.
        number: of the pass, from 0.
    """

    def __init__(self, suite: Suite, split: Split, outcomes: dict[Split, Outcomes], number: int = 0) -> None:
        self.suite, self.split = suite, split
        self.outcomes, self.number = outcomes, number
        self.parts: list[Outcomes] = []
        self.report = Report([])

    def batches(self, trainer: L.Trainer) -> Any:
        """This process' batches of the split."""
        data = self.suite.context.data
        data.trainer = trainer  # which knows the device and this process' share
        return data.eval_loader(self.split, self.suite.rows(self.split), self.suite.batch_size)

    def begin(self, trainer: L.Trainer) -> None:
        context = self.suite.context
        context.rank, context.world = trainer.global_rank, trainer.world_size
        if not self.outcomes:
            self.suite.prepare()

    def step(self, batch: Batch) -> None:
        if len(batch.index) == 0:
            return  # there are more processes than batches
        with torch.no_grad():
            step = self.suite.step(batch)
        self.parts.append({"index": batch.index.cpu(), **{name: value.cpu() for name, value in step.items()}})

    def end(self) -> None:
        suite = self.suite
        parts = [part for mine in suite.context.gather(self.parts) for part in mine]
        index = torch.cat([part["index"] for part in parts])
        order = index.argsort()
        found = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        self.outcomes[self.split] = {**self.outcomes.get(self.split, {}), **found}
        suite.close_split(self.split)
        if self.split != suite.splits[-1]:
            return
        if self.number + 1 < suite.passes:
            suite.between(self.outcomes)
        else:
            self.report = suite.finish(self.outcomes)


class SuiteRunner(L.LightningModule):
    """Runs one pass of a suite over one split under ``Trainer.test``; its arguments are those of ``Pass``."""

    def __init__(self, suite: Suite, split: Split, outcomes: dict[Split, Outcomes], number: int = 0) -> None:
        super().__init__()
        self.model = suite.context.model
        self.outcomes = outcomes
        self.one = Pass(suite, split, outcomes, number)

    @property
    def report(self) -> Report:
        """The suite's, after its last pass."""
        return self.one.report

    def test_dataloader(self) -> Any:
        return self.one.batches(self.trainer)

    def on_test_start(self) -> None:
        self.one.begin(self.trainer)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.one.step(batch)

    def on_test_epoch_end(self) -> None:
        self.one.end()  # here, as Lightning takes the model off its device next


def usable_outcomes(
    node: Mapping[str, Any], ran: Iterable[tuple[Mapping[str, Any], Mapping[Split, Outcomes]]]
) -> dict[str, dict[Split, Outcomes]]:
    """Of evals that ran, given as nodes with outcomes, what an eval of the same data can use, by the name of it."""
    wanted = set(find_schema(node["_schema_"]).after)  # type: ignore[attr-defined]
    found: dict[str, dict[Split, Outcomes]] = {}
    for other, outcomes in ran:
        if other.get("data") == node.get("data"):
            for kind in wanted & set(find_schema(other["_schema_"]).gives):  # type: ignore[attr-defined]
                found[kind] = {**found.get(kind, {}), **outcomes}
    return found


@torch.no_grad()
def run_within(suite: Suite, trainer: L.Trainer) -> tuple[Report, dict[Split, Outcomes]]:
    """Run a suite in the middle of a training, on its processes; its report and outcomes."""
    outcomes: dict[Split, Outcomes] = {}
    report = Report([])
    for number in range(suite.passes):
        for split in suite.splits:
            one = Pass(suite, split, outcomes, number)
            one.begin(trainer)
            for batch in one.batches(trainer):
                one.step(batch)
            one.end()
            report = one.report
    return report, outcomes


def split_prefix(split: Split) -> str:
    """Part of a metric's name: nothing for the test set, ``train_`` for the training set, ``val_`` for validation."""
    return "" if split == "test" else f"{split}_"
