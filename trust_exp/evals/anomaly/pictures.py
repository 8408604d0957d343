"""Figures of anomaly scores: ROC curves, and the samples with the highest and the lowest scores."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from trust_exp.data.config import DatasetInfo
from trust_exp.data.module import DataModule
from trust_exp.evals.suite import Context
from trust_exp.metrics.anomaly import auroc, ranked
from trust_exp.viz.contact_sheet import Sheet, Tile
from trust_exp.viz.prototypes import pixels
from trust_exp.viz.style import axes

WORDS = {
    "reconstruction": "reconstruction",
    "maps": "error",
    "attention": "attention",
    "attention_offline": "offline attention",
}


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
        shown = pixels(batch.image)
        names = [data.info.classes[label] for label in batch.label.tolist()]
        values = score[places, model].tolist()
        strips.append([Tile(*tile) for tile in zip(shown, names, (f"{value:.3g}" for value in values), strict=True)])
    return Sheet(strips, 2 * number)


@torch.no_grad()
def mapped(context: Context) -> Iterator[tuple[str, Sheet]]:
    """For each model a page of the first test image of each class, and of what the model gives for them.

    Maps of a kind are scaled together, black 0 and white their largest value.

    Yields:
        the names of the model's normal classes, and its page.
    """
    data, info = context.data, context.info
    labels = data.served_labels("test")
    places = [first.item() for label in range(len(info.classes)) for first in (labels == label).nonzero()[:1]]
    batch = data.samples("test", torch.tensor(places))
    outputs = context.model(batch.image.to(context.device))
    for model, normal in enumerate(info.normal):
        names = [f"{info.classes[label]}{', normal' * (label in normal)}" for label in batch.label.tolist()]
        strips = [[Tile(*tile) for tile in zip(pixels(batch.image), names, strict=True)]]
        for name, words in WORDS.items():
            if name in outputs:
                own = outputs[name][:, model].float().cpu()
                own = own if own.dim() == 4 else (own / own.max().clamp(min=1e-12))[:, None]
                strips.append([Tile(image, words) for image in pixels(own)])
        yield ", ".join(info.classes[label] for label in normal), Sheet(strips, len(places))
