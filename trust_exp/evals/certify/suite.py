"""Certified robust accuracy: what no perturbation below a radius can change, by the network's Lipschitz bound."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.errors import UserError
from trust_exp.evals.suite import Outcomes, Report, Suite, split_prefix
from trust_exp.lipschitz.certificate import tightness_search
from trust_exp.lipschitz.rounding import Certifier, plain_products
from trust_exp.results.record import Row, fraction
from trust_exp.rng import keyed_generator
from trust_exp.verdicts import predicted
from trust_exp.viz.certified import draw_certified_accuracy
from trust_exp.viz.plane import draw_plane

PAIRS_AT_ONCE = 1000


class Certify(Suite):
    """CRA at radii and as a curve, per class, the Lipschitz constant, its gap and its tightness.

    What is certified is the float32 forward pass that is attacked and deployed, its rounding included.
    """

    name = "certify"

    def __init__(
        self,
        splits: Sequence[Split],
        radii: Sequence[float],
        per_class: bool,
        tightness_pairs: int,
        tightness_steps: int,
        gap_steps: int,
    ) -> None:
        super().__init__()
        self.splits = tuple(splits)
        self.radii = list(radii)
        self.per_class = per_class
        self.pairs, self.steps = tightness_pairs, tightness_steps
        self.gap_steps = gap_steps

    def prepare(self) -> None:
        model = self.context.model
        if not isinstance(model, torch.nn.Sequential):
            raise UserError(
                f"eval=certify needs a network whose layers are known, such as conv_4c3f; got {type(model).__name__}"
            )
        self.certifier = Certifier(model, self.context.info.shape)
        self.bound = self.certifier.bound
        self.gap = self.certifier.lipschitz.gap(self.bound, steps=self.gap_steps)

    def step(self, batch: Batch) -> Outcomes:
        logits, radius = self.certifier.radius(batch.image)
        with plain_products():
            computed = self.context.model(batch.image)
        correct = (predicted(computed) == batch.label) & (predicted(logits) == batch.label)
        return {"radius": radius * correct, "correct": correct, "label": batch.label}

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        rows = [row for split, found in outcomes.items() for row in self._accuracies(split, found)]
        rows.append(Row("certify/lipschitz", float(self.bound.worst), "K", detail={"how": "upper bound, float64"}))
        rows.append(Row("certify/bound_gap", self.gap, detail={"how": "above the estimate"}))
        if self.pairs:
            rows.append(self._tightness())
        return Report(rows, self._draw(outcomes) if self.context.rank == 0 else [])

    def _accuracies(self, split: Split, found: Outcomes) -> list[Row]:
        prefix, n = split_prefix(split), len(found["radius"])
        rows = []
        for radius in self.radii:
            certified = found["correct"] & (found["radius"] > radius)
            at = f"accuracy@{radius:.3g}"
            rows.append(fraction(f"certify/{prefix}{at}", int(certified.sum()), n, radius=radius, norm="L2", how="L2"))
            for label, name in enumerate(self.context.info.classes if self.per_class else ()):
                own = found["label"] == label
                if own.any():
                    hits = int(certified[own].sum())
                    rows.append(
                        fraction(f"certify/{prefix}class_{at}", hits, int(own.sum()), radius=radius, **{"class": name})
                    )
        return rows

    def _tightness(self) -> Row:
        """Largest difference quotient that a search finds, as a part of K (Losch 2024, Eq. 4.9)."""
        context, data = self.context, self.context.data
        mine = slice(context.rank, None, context.world)
        best = 0.0
        pick = torch.randint(data.size("train"), (2, self.pairs), generator=keyed_generator(context.seed, "tightness"))
        for chosen in pick[:, mine].split(PAIRS_AT_ONCE, dim=1) if pick[:, mine].numel() else ():
            first, second = (data.samples("train", rows).image.to(context.device) for rows in chosen)
            quotients = tightness_search(
                context.model,
                first,
                second,
                domain=context.info.domain,
                steps=self.steps,
                progress=lambda steps: context.progress(steps, "tightness"),
            )
            best = max(best, float(quotients.max()))
        best = max(context.gather(best))
        how = f"{self.pairs} pairs, {self.steps} steps"
        detail = {"pairs": self.pairs, "steps": self.steps, "lower_bound": best, "how": how}
        return Row("certify/tightness", best / float(self.bound.worst), "fraction", detail=detail)

    def _draw(self, outcomes: Mapping[Split, Outcomes]) -> list[Path]:
        context = self.context
        curves = {str(split): found["radius"][found["correct"]].numpy() for split, found in outcomes.items()}
        sizes = {str(split): len(found["radius"]) for split, found in outcomes.items()}
        title = f"{context.method} on {context.info.name}"
        figures = [draw_certified_accuracy(context.figure("certified_accuracy"), curves, sizes, self.radii, title)]
        if context.info.shape == (2,):
            figures.append(self._draw_plane(outcomes, title))
        return figures

    def _draw_plane(self, outcomes: Mapping[Split, Outcomes], title: str) -> Path:
        split = next(iter(outcomes))
        data, radius = self.context.data, max(self.radii)
        shown = data.samples(split, torch.arange(data.size(split)))
        violated = ~(outcomes[split]["correct"] & (outcomes[split]["radius"] > radius))
        share = 1 - violated.double().mean().item()
        caption = f"{title}: {share:.2%} certified at {radius:g} ({split}), K = {float(self.bound.worst):.3g}"

        def distance(points: Tensor) -> Tensor:
            logits = self.certifier.logits(points.to(self.context.device))
            return ((logits[:, 1] - logits[:, 0]) / self.bound.pairwise[0, 1]).cpu()

        return draw_plane(
            self.context.figure("boundary"), distance, shown.image, shown.label, violated, radius, caption
        )
