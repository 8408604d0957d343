"""How well scores tell anomalies from normal samples."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, MaskBatch, Split
from trust_exp.data.config import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.evals.anomaly.pasting import pasted_rows
from trust_exp.evals.anomaly.pictures import extremes, mapped, roc_figure
from trust_exp.evals.suite import Context, Outcomes, Report, Suite
from trust_exp.metrics.anomaly import MEASURES, aupro, auroc, average_precision, ranked, resampled
from trust_exp.results.record import Row, fraction
from trust_exp.rng import keyed_generator
from trust_exp.viz.contact_sheet import write_contact_sheet

SCORES = "scores"  # the output with a method's own score; others are scores_<name>
BINS = 4096  # of reconstructed pixels in [0, 1]
LEVELS = (0.0, 0.5)  # above which an input's pixel counts as one of the drawing
HOW = "bootstrap over test samples, within each class"


class Anomaly(Suite):
    """AUROC, average precision and the best F1 of every score; alarms at the threshold of held-out normal samples.

    Where each class is normal for a model of its own, a metric is the mean over the models, and
    ``anomaly/class_<metric>`` has the value of each. Of networks that reconstruct their input, ``reconstruction_auc@0``
    and ``@0.5`` are the AUROC of reconstructed pixels against the pixels of the input that are above 0 or 0.5: no
    measure of anomaly detection, but perhaps that of Abukmeil et al. 2022, table 1.

    Args:
        false_alarms: fraction of the held-out normal samples above the threshold.
        pictures: how many of the highest and of the lowest scores are drawn.
        pasted: normal test images for each model into which something is pasted, for its maps to find.
    """

    name = "anomaly"
    unsaved = ("map", "mask")

    def __init__(self, false_alarms: float, pictures: int, pasted: int) -> None:
        super().__init__()
        self.false_alarms, self.pictures, self.pasted = false_alarms, pictures, pasted
        self.has_maps = False

    @property
    def splits(self) -> tuple[Split, ...]:  # type: ignore[override]
        """Held-out normal samples first, if there are any."""
        return tuple(split for split in self.context.data.splits if split != "train")

    def check(self, info: DatasetInfo) -> None:
        if not info.normal:
            raise UserError(f"eval=anomaly needs one normal class; dataset={info.name} has none")

    def step(self, batch: Batch | MaskBatch) -> Outcomes:
        outputs = self.context.model(batch.image)
        found = {"label": batch.label}
        found |= {name: value.double() for name, value in outputs.items() if name.startswith(SCORES)}
        self.has_maps = "maps" in outputs
        if isinstance(batch, MaskBatch) and self.has_maps:
            found |= {"map": outputs["maps"][:, 0].float(), "mask": batch.mask}
        if "reconstruction" in outputs:
            self._count_pixels(batch.image, outputs["reconstruction"])
        return found

    def _count_pixels(self, image: Tensor, reconstruction: Tensor) -> None:
        """Add the reconstructed pixels [B, M, C, H, W] to histograms, apart for dark and bright ones of the input."""
        bins = (reconstruction.clamp(0, 1) * (BINS - 1)).round().long()
        for level in LEVELS:
            bright = (image > level).long()[:, None].expand_as(bins)
            places = (bins + BINS * bright).transpose(0, 1).flatten(1)
            self.add(f"pixels@{level:g}", torch.stack([own.bincount(minlength=2 * BINS) for own in places]))

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        test, info = outcomes["test"], self.context.info
        if any(value.isnan().any() for split in outcomes.values() for name, value in split.items() if SCORES in name):
            raise FloatingPointError("a score is nan")
        anomalous = torch.stack([~torch.isin(test["label"], torch.tensor(own)) for own in info.normal], dim=1)
        rows = []
        for name in sorted(name for name in test if name.startswith(SCORES)):
            rows += self._rows_of(name.removeprefix(SCORES).lstrip("_"), test[name], anomalous, test["label"])
        if "val" in outcomes:
            rows += self._alarms(outcomes["val"], test, anomalous)
        rows += [*self._pixel_rows(test), *self._reconstruction_rows()]
        if self.has_maps and self.pasted and len(info.shape) == 3:
            rows += pasted_rows(self.context, self.pasted)
        return Report(rows, self._figures(test, anomalous) if self.context.rank == 0 else [])

    def _rows_of(self, kind: str, score: Tensor, anomalous: Tensor, label: Tensor) -> list[Row]:
        """The measures of one score [N, M]; those of the method's own, whose ``kind`` is empty, have intervals."""
        lead = f"anomaly/{kind}/" if kind else "anomaly/"
        per_model = {name: [] for name in MEASURES}  # type: dict[str, list[float]]
        for own, kinds in zip(score.T, anomalous.T, strict=True):
            counts = ranked(own, kinds)
            for name, measure in MEASURES.items():
                per_model[name].append(measure(counts).item() if kinds.any() and not kinds.all() else math.nan)
        drawn = {} if kind or math.isnan(sum(per_model["auroc"])) else self._intervals(score, anomalous, label)
        rows = []
        for name, values in per_model.items():
            mean, each = drawn.get(name, (None, [None] * len(values)))
            detail: dict[str, Any] = {"how": HOW} if mean else {}
            rows.append(Row(f"{lead}{name}", sum(values) / len(values), n=len(score), interval=mean, detail=detail))
            if len(values) > 1:
                classes = self.context.info.classes
                names = (",".join(classes[number] for number in own) for own in self.context.info.normal)
                rows += [
                    Row(f"{lead}class_{name}", value, n=len(score), interval=interval, detail={**detail, "class": own})
                    for own, value, interval in zip(names, values, each, strict=True)
                ]
        return rows

    def _intervals(self, score: Tensor, anomalous: Tensor, label: Tensor) -> dict[str, tuple[Any, list[Any]]]:
        """95 % intervals of the mean of each measure over the models, and of each model."""
        generator = keyed_generator(self.context.seed, "anomaly", "intervals")
        limits = torch.tensor([0.025, 0.975], dtype=torch.float64)
        return {
            name: (
                tuple(values.mean(1).quantile(limits).tolist()),
                [tuple(pair) for pair in values.quantile(limits, dim=0).T.tolist()],
            )
            for name, values in resampled(score, anomalous, label, generator).items()
        }

    def _alarms(self, held: Outcomes, test: Outcomes, anomalous: Tensor) -> list[Row]:
        """How many test samples are above the threshold of the held-out normal ones, over all models."""
        hits = alarms = 0
        for model, own in enumerate(self.context.info.normal):
            normal = held[SCORES][torch.isin(held["label"], torch.tensor(own)), model]
            threshold = normal.quantile(1 - self.false_alarms, interpolation="higher")
            above = test[SCORES][:, model] > threshold
            hits += int((above & anomalous[:, model]).sum())
            alarms += int((above & ~anomalous[:, model]).sum())
        anomalies = int(anomalous.sum())
        detail = {"how": f"threshold of {len(held['label'])} held-out normal samples, {self.false_alarms:.0%} above"}
        return [
            fraction("anomaly/true_positive_rate", hits, anomalies, **detail),
            fraction("anomaly/false_positive_rate", alarms, anomalous.numel() - anomalies, **detail),
        ]

    def _pixel_rows(self, test: Outcomes) -> list[Row]:
        if "map" not in test or not test["mask"].any():
            return []
        counts = ranked(test["map"].flatten(), test["mask"].flatten())
        values = {
            "pixel_auroc": auroc(counts).item(),
            "pixel_average_precision": average_precision(counts).item(),
            "aupro": aupro(test["map"], test["mask"]),
        }
        return [Row(f"anomaly/{name}", value, n=len(test["map"])) for name, value in values.items()]

    def _reconstruction_rows(self) -> list[Row]:
        rows = []
        bins = torch.arange(2 * BINS) % BINS
        for level in LEVELS:
            counts = self.totals["test"].get(f"pixels@{level:g}")
            if counts is not None:
                found = auroc(ranked(bins.double(), torch.arange(2 * BINS) >= BINS, counts.double()))
                how = {"how": "reconstructed pixels against bright pixels of the input; says nothing about anomalies"}
                rows.append(Row(f"anomaly/reconstruction_auc@{level:g}", found.mean().item(), detail=how))
        return rows

    def _figures(self, test: Outcomes, anomalous: Tensor) -> list[Path]:
        context: Context = self.context
        figures = [roc_figure(context.figure("anomaly_roc"), test[SCORES], anomalous, context.info)]
        if self.pictures and len(context.info.shape) == 3:
            sheet = extremes(context.data, test[SCORES], anomalous, self.pictures)
            title = f"{context.method}: the highest and the lowest scores"
            figures.append(write_contact_sheet(context.figure("anomaly_extremes"), title, sheet))
            for own, (normal, page) in zip(context.info.normal, mapped(context) if self.has_maps else (), strict=False):
                title = f"{context.method}: the first test image of each class; normal: {normal}"
                figures.append(write_contact_sheet(context.figure(f"anomaly_maps_{own[0]}"), title, page))
        return figures
