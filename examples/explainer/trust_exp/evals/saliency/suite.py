"""Deletion and insertion of the pixels that gradient times input points at."""

from collections.abc import Mapping

import torch
from torch import Tensor
from trust_exp.explain.gradient_input import gradient_times_input

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.deletion import deletion_rows
from trust_exp.evals.suite import Outcomes, Report, Suite


class Saliency(Suite):
    """``saliency/deletion``, ``saliency/insertion``, and both with places at random; of the first test images."""

    name = "saliency"

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def step(self, batch: Batch) -> Outcomes:
        return {"said": self.context.output("logits", batch.image).argmax(1)}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        return Report(deletion_rows(self.context, "saliency/", "test", self.samples or 0, self._explain))

    def _explain(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            said = self.context.output("logits", image).argmax(1)
        return gradient_times_input(self.context.model, image, said), said
