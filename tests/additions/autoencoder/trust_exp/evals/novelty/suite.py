"""The area under the ROC curve of one class against the others."""

from collections.abc import Mapping

from torchmetrics.functional.classification import binary_auroc

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.results.record import Row


class Novelty(Suite):
    """``novelty/auroc``."""

    name = "novelty"

    def __init__(self, normal: int) -> None:
        super().__init__()
        self.normal = normal

    def step(self, batch: Batch) -> Outcomes:
        return {"score": self.context.output("scores", batch.image), "new": batch.label != self.normal}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found = outcomes["test"]
        area = binary_auroc(found["score"], found["new"].long())
        return Report([Row("novelty/auroc", float(area), "area", len(found["new"]))])
