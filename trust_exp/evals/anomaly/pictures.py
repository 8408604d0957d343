"""Figures of anomaly scores: ROC curves, and the samples with the highest and the lowest scores."""

from pathlib import Path

import torch
from torch import Tensor

from trust_exp.data.config import DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.metrics.anomaly import auroc, ranked
from trust_exp.viz.contact_sheet import Sheet, Tile
from trust_exp.viz.style import axes


def roc_figure(path: Path, score: Tensor, anomalous: Tensor, info: DatasetInfo) -> Path:
    """The ROC curve of each model: score and anomalous [N, M]."""
    with axes(path) as plot:
        for own, kinds, normal in zip(score.T, anomalous.T, info.normal, strict=True):
            if not kinds.any() or kinds.all():
                continue
            counts = ranked(own, kinds)
            hits, alarms = (torch.nn.functional.pad(part[0] / part[0, -1], (1, 0)) for part in counts[:2])
            name = ", ".join(info.classes[number] for number in normal)
            plot.plot(alarms.tolist(), hits.tolist(), label=f"{name}: {auroc(counts).item():.3f}", linewidth=1)
        plot.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
        plot.set_xlabel("false positive rate")
        plot.set_ylabel("true positive rate")
        if plot.get_legend_handles_labels()[0]:
            plot.legend(title="normal: AUROC", fontsize=7, title_fontsize=7)
    return path


def extremes(data: DataModule, score: Tensor, anomalous: Tensor, number: int) -> Sheet:
    """For each model a row of the test samples with its highest scores, the first first, then those of its lowest."""
    number = min(number, max(1, len(score) // 2))
    strips = []
    for model in range(score.shape[1]):
        order = score[:, model].argsort(descending=True, stable=True)
        places = torch.cat([order[:number], order[-number:]])
        batch = data.samples("test", places)
        images = (batch.image.clamp(0, 1) * 255).round().byte()
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        pixels = images.permute(0, 2, 3, 1).numpy()
        names = [data.info.classes[label] for label in batch.label.tolist()]
        values = score[places, model].tolist()
        strips.append([Tile(*tile) for tile in zip(pixels, names, (f"{value:.3g}" for value in values), strict=True)])
    return Sheet(strips, 2 * number)
