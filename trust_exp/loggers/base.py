"""The interface of a logger: Lightning's loggers for the curves, and a method that gets the final result."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trust_exp.build import build
from trust_exp.runs import Run

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


class RunLogger:
    """Logger of one job of a run; this base class logs nothing.

    Args:
        run: the job's run.
        config: the checked configuration that the run was trained with.
    """

    def __init__(self, run: Run, config: Mapping[str, Any]) -> None:
        self.run, self.config = run, config

    def lightning(self) -> "list[Logger]":
        """Lightning's loggers for a training."""
        return []

    def finish(self, result: Mapping[str, Any]) -> None:
        """Log the content of result.json when the job ends, in any state. Never raises."""


class CsvCurves(RunLogger):
    """Writes ``curves/version_<start>/metrics.csv`` in the run's folder."""

    def lightning(self) -> "list[Logger]":
        from lightning.pytorch.loggers import CSVLogger

        return [CSVLogger(self.run.folder, name="curves")]


def open_logger(node: Mapping[str, Any], run: Run, config: Mapping[str, Any]) -> RunLogger:
    """Build the logger of a checked node; only the first process of a job has one."""
    logger: RunLogger = build(node, run=run, config=config)
    return logger
