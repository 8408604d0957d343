"""Intersection over union of one box an image."""

from collections.abc import Mapping

from torchvision.ops import box_iou

from trust_exp.data.batch import AnyBatch, Split
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.results.record import Row


class Overlap(Suite):
    """``overlap/iou``, the mean over the images."""

    name = "overlap"

    def step(self, batch: AnyBatch) -> Outcomes:
        given = self.context.output("boxes", batch.image).squeeze(1)
        return {"iou": box_iou(given, batch.boxes.squeeze(1)).diagonal().clamp_min(0)}  # type: ignore[union-attr]

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found = outcomes["test"]["iou"]
        return Report([Row("overlap/iou", float(found.mean()), "fraction", len(found))])
