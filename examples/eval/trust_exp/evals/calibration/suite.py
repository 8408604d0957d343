"""Expected calibration error (Guo et al. 2017)."""

from collections.abc import Mapping

from torchmetrics.functional.classification import binary_calibration_error

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.results.record import Row


class Calibration(Suite):
    """``calibration/error`` over bins of the confidence.

    Source: Guo et al. 2017, Eq. 3.
    """

    name = "calibration"

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def step(self, batch: Batch) -> Outcomes:
        confidence, said = self.context.output("logits", batch.image).float().softmax(1).max(1)
        return {"confidence": confidence, "correct": said == batch.label}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found = outcomes["test"]
        error = binary_calibration_error(found["confidence"], found["correct"].long(), n_bins=self.bins)
        return Report([Row("calibration/error", float(error), "fraction", len(found["correct"]))])
