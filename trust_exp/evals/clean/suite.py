"""Accuracy on unchanged data."""

from collections.abc import Mapping, Sequence

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.suite import Outcomes, Report, Suite, split_prefix
from trust_exp.results.record import fraction
from trust_exp.verdicts import predicted


class Clean(Suite):
    """``clean/accuracy`` on the test set; ``clean/train_accuracy`` if the training set is asked for."""

    name = "clean"

    def __init__(self, splits: Sequence[Split]) -> None:
        super().__init__()
        self.splits = tuple(splits)

    def step(self, batch: Batch) -> Outcomes:
        return {"correct": predicted(self.context.output("logits", batch.image)) == batch.label}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        return Report(
            [
                fraction(f"clean/{split_prefix(split)}accuracy", int(found["correct"].sum()), len(found["correct"]))
                for split, found in outcomes.items()
            ]
        )
