"""TensorBoard: ``tensorboard --logdir multirun`` shows every run as ``<run>/curves/tensorboard``, resumed or not."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from trust_exp.console import say
from trust_exp.loggers.base import CsvCurves
from trust_exp.results.record import is_measured


class TensorBoard(CsvCurves):
    """Curves and, at the end, the metrics of result.json as scalars."""

    def _board(self) -> TensorBoardLogger:
        return TensorBoardLogger(self.run.folder, name="curves", version="tensorboard", default_hp_metric=False)

    def lightning(self) -> list[Logger]:
        return [*super().lightning(), self._board()]

    def finish(self, result: Mapping[str, Any]) -> None:
        try:
            board = self._board()
            metrics = {name: value for name, value in result["metrics"].items() if is_measured(value)}
            board.log_metrics(metrics, step=result["steps"])
            board.finalize(result["status"])
        except Exception as error:  # a logger must not make a run fail
            say(f"TensorBoard could not write the metrics: {error}")
