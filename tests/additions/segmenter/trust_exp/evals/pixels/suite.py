"""Pixel accuracy from a confusion matrix that is summed over all images."""

from collections.abc import Mapping

import torch

from trust_exp.data.batch import AnyBatch, Split
from trust_exp.data.config import UNKNOWN
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.results.record import fraction


class Pixels(Suite):
    """``pixels/accuracy``; nothing is kept of a single image."""

    name = "pixels"

    def step(self, batch: AnyBatch) -> Outcomes:
        said = self.context.output("logits", batch.image).argmax(1)
        known = batch.label != UNKNOWN
        classes = len(self.context.info.classes)
        pairs = batch.label[known] * classes + said[known]
        self.add("confusion", torch.bincount(pairs, minlength=classes**2).view(classes, classes))
        return {}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        confusion = self.totals["test"]["confusion"]
        return Report([fraction("pixels/accuracy", int(confusion.trace()), int(confusion.sum()))])
