"""What an evaluation suite is, and how one runs: per sample, on any number of devices, through Lightning's Trainer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo, Split
from trust_exp.data.module import DataModule
from trust_exp.results.record import Row

Outcomes = dict[str, Tensor]


def _same(items: Iterable[Any], _: str) -> Iterable[Any]:
    return items


@dataclass
class Context:
    """What a suite may use.

    ``folder`` is the run's; ``facts`` are those of the training, see ``Method.facts``; ``earlier`` holds the outcomes
    per sample of the suites that ran before, under "<suite>-<split>".
    """

    model: nn.Module
    data: DataModule
    folder: Path
    seed: int = 0
    method: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    earlier: Mapping[str, Outcomes] = field(default_factory=dict)
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = _same
    rank: int = 0
    world: int = 1

    @property
    def info(self) -> DatasetInfo:
        return self.data.info

    @property
    def figures(self) -> Path:
        """Where figures are written."""
        return self.folder / "figures"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


@dataclass
class Report:
    """What a suite found: its rows and the figures that it drew."""

    rows: list[Row]
    figures: list[Path] = field(default_factory=list)


class Suite:
    """One question asked of a trained model.

    ``step`` answers it for the samples of a batch, ``finish`` sums up. Whatever the number of devices, ``finish`` sees
    the outcomes of all samples in the order of the data set, so that the numbers are the same.
    """

    name = "suite"
    splits: tuple[Split, ...] = ("test",)
    samples: int | None = None  # only the first so many of a split
    batch_size: int | None = None  # None: the data set's

    def __init__(self) -> None:
        self.context: Context

    def prepare(self) -> None:
        """Called once before the first step, with the model in eval mode on its device."""

    def rows(self, split: Split) -> Tensor | None:
        """The samples that are asked about, int64 [M], increasing places among those served; None: all of them."""
        return None if self.samples is None else torch.arange(self.context.data.size(split))[: self.samples]

    def step(self, batch: Batch) -> Outcomes:
        """Outcomes of the batch, each a tensor [B, ...]; called with gradients off."""
        raise NotImplementedError

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        """Rows and figures from the outcomes of each split; called on every process, draw on rank 0 only."""
        raise NotImplementedError


class SuiteRunner(L.LightningModule):
    """Runs one suite over one split under ``Trainer.test``; after the last split it holds the suite's report.

    ``outcomes`` is shared by the splits of a suite: every sample's, in the order of the data set.
    """

    def __init__(self, suite: Suite, split: Split, outcomes: dict[Split, Outcomes]) -> None:
        super().__init__()
        self.model = suite.context.model
        self.suite, self.split = suite, split
        self.outcomes = outcomes
        self.parts: list[Outcomes] = []
        self.report = Report([])

    def test_dataloader(self) -> Any:
        data = self.suite.context.data
        data.trainer = self.trainer  # which knows the device and this process' share only now
        return data.eval_loader(self.split, self.suite.rows(self.split), self.suite.batch_size)

    def on_test_start(self) -> None:
        context = self.suite.context
        context.rank, context.world = self.trainer.global_rank, self.trainer.world_size
        if not self.outcomes:
            self.suite.prepare()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if len(batch.label) == 0:
            return  # there are more processes than batches
        with torch.no_grad():
            step = self.suite.step(batch)
        self.parts.append({"index": batch.index.cpu(), **{name: value.cpu() for name, value in step.items()}})

    def on_test_epoch_end(self) -> None:
        parts = [part for mine in self.suite.context.gather(self.parts) for part in mine]
        index = torch.cat([part["index"] for part in parts])
        order = index.argsort()
        self.outcomes[self.split] = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        if self.split == self.suite.splits[-1]:
            self.report = self.suite.finish(self.outcomes)  # here, as Lightning takes the model off its device next
