"""What the engine asks of a logger: Lightning's loggers for the curves, and to take the result when the job ends."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trust_exp.build import build
from trust_exp.runs import Run

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


class RunLogger:
    """Logs one job of a run; this one logs nothing.

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
        """Take what result.json holds now that the job ends, however it ends. Never raises."""


class CsvCurves(RunLogger):
    """Writes ``curves/version_<start>/metrics.csv`` in the run's folder."""

    def lightning(self) -> "list[Logger]":
        from lightning.pytorch.loggers import CSVLogger

        return [CSVLogger(self.run.folder, name="curves")]


def open_logger(node: Mapping[str, Any], run: Run, config: Mapping[str, Any]) -> RunLogger:
    """The logger that a checked node describes; only the first process of a job has one."""
    logger: RunLogger = build(node, run=run, config=config)
    return logger
