"""How well scores tell anomalies from normal samples: AUROC, average precision, F1; for pixels also AUPRO.

A larger score is more anomalous; of equal scores none comes first. All values are exact, float64, and in [0, 1].

Not torchmetrics' functions, against which these are tested: they put scores outside [0, 1] through a sigmoid, which
makes large ones equal, and take no weights, so that each of a thousand resamples would be sorted anew.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

RESAMPLES = 1000
CHUNK = 2**24  # numbers of a bootstrap in memory at a time


class Ranking(NamedTuple):
    """Counts of the samples at or above each distinct score, from the highest score down.

    ``hits`` (anomalies) and ``alarms`` (normal samples) are float64 [R, K], one row for each weighting; ``threshold``
    [K], the scores.
    """

    hits: Float[Tensor, "R K"]
    alarms: Float[Tensor, "R K"]
    threshold: Float[Tensor, " K"]


def ranked(
    score: Float[Tensor, " N"], anomalous: Bool[Tensor, " N"], weight: Num[Tensor, "R N"] | None = None
) -> Ranking:
    """The counts at each distinct score.

    Args:
        score: [N].
        anomalous: bool [N].
        weight: [R, N], how often each sample counts in each of R resamples; None: once.

    Raises:
        ValueError: if a score is nan.
    """
    score = score.double()
    if score.isnan().any():
        raise ValueError("a score is nan")
    order = score.argsort(descending=True, stable=True)
    ordered = score[order]
    ends = torch.ones(len(score), dtype=torch.bool, device=score.device)
    ends[:-1] = ordered[1:] != ordered[:-1]
    weight = torch.ones(1, len(score), dtype=torch.float64, device=score.device) if weight is None else weight.double()
    own, positive = weight[:, order], anomalous[order].double()
    hits, alarms = ((own * part).cumsum(1)[:, ends] for part in (positive, 1 - positive))
    return Ranking(hits, alarms, ordered[ends])


def auroc(counts: Ranking) -> Float[Tensor, " R"]:
    """Probability that an anomaly has the higher score of a pair, equal scores counting half; nan without a pair."""
    hits, alarms = (torch.nn.functional.pad(part, (1, 0)) for part in counts[:2])
    area = ((alarms[:, 1:] - alarms[:, :-1]) * (hits[:, 1:] + hits[:, :-1])).sum(1) / 2
    return area / (hits[:, -1] * alarms[:, -1])


def average_precision(counts: Ranking) -> Float[Tensor, " R"]:
    """Sum over thresholds of the precision times the step of the recall; nan without anomalies.

    Source: scikit-learn's ``average_precision_score``.
    """
    hits = torch.nn.functional.pad(counts.hits, (1, 0))
    precision = counts.hits / (counts.hits + counts.alarms).clamp(min=torch.finfo(torch.float64).tiny)
    return ((hits[:, 1:] - hits[:, :-1]) * precision).sum(1) / hits[:, -1]


def best_f1(counts: Ranking) -> Float[Tensor, " R"]:
    """The largest F1 of any threshold; nan without anomalies."""
    anomalies = counts.hits[:, -1:]
    f1 = 2 * counts.hits / (counts.hits + counts.alarms + anomalies)
    return torch.where(anomalies.squeeze(1) > 0, f1.max(1).values, torch.nan)


MEASURES = {"auroc": auroc, "average_precision": average_precision, "f1_max": best_f1}


def resampled(
    score: Float[Tensor, "N M"],
    anomalous: Bool[Tensor, "N M"],
    label: Int64[Tensor, " N"],
    generator: torch.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, Float[Tensor, "R M"]]:
    """``MEASURES`` by their names of M scores on bootstrap resamples of the test samples, for intervals.

    The samples of each label are drawn apart, so that every resample has anomalies and normal samples; all scores see
    the same resamples.

    Args:
        generator: the resamples are drawn from it, on the CPU.

    Raises:
        ValueError: if a score is nan.
    """
    of_label = [(label == own).nonzero().squeeze(1).cpu() for own in label.unique()]
    found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    left, most = resamples, max(1, CHUNK // len(score))
    while left:
        weight = torch.zeros(min(left, most), len(score), dtype=torch.float64)
        for own in weight:  # one after the other, so that the chunks change no draw
            for places in of_label:
                own[places] = _counts(places, generator)
        weight = weight.to(score.device)
        counts = [ranked(one, kinds, weight) for one, kinds in zip(score.T, anomalous.T, strict=True)]
        for name, measure in MEASURES.items():
            found[name].append(torch.stack([measure(own) for own in counts], dim=1).cpu())
        left -= len(weight)
    return {name: torch.cat(values) for name, values in found.items()}


def _counts(places: Tensor, generator: torch.Generator) -> Tensor:
    """How often each of some places is drawn in as many draws."""
    drawn = torch.randint(len(places), (len(places),), generator=generator)
    return drawn.bincount(minlength=len(places)).double()


def regions_of(mask: Bool[Tensor, "N H W"]) -> tuple[Int64[Tensor, "N H W"], int]:
    """The connected regions of each mask, numbered from 1 over all masks, 0 elsewhere; and how many there are.

    Pixels that touch at a corner are of one region, as in MVTec's evaluation.
    """
    from scipy.ndimage import label

    found, number = np.zeros(mask.shape, np.int64), 0
    for place, own in enumerate(mask.cpu().numpy()):
        numbered, regions = label(own, np.ones((3, 3)))
        found[place] = np.where(numbered, numbered + number, 0)
        number += regions
    return torch.from_numpy(found), number


def aupro(score: Float[Tensor, "N H W"], mask: Bool[Tensor, "N H W"], most: float = 0.3) -> float:
    """Area under the per-region overlap up to a false positive rate, over that rate.

    At each threshold the overlap is the mean over all regions of the fraction of their pixels that are found, the false
    positive rate that of all pixels outside of masks. Between thresholds both are interpolated.

    Args:
        score: of each pixel.
        mask: where the images are defective.
        most: the false positive rate up to which is integrated, in (0, 1].

    Returns:
        In [0, 1]; nan if no pixel is defective, or all are.

    Raises:
        ValueError: if a score is nan.

    Source: Bergmann et al. 2020, sec. 4.2 (PRO).
    """
    regions, number = regions_of(mask)
    flat, of = score.double().flatten().cpu(), regions.flatten()
    if flat.isnan().any():
        raise ValueError("a score is nan")
    outside = int((of == 0).sum())
    if not number or not outside:
        return float("nan")
    sizes = of.bincount(minlength=number + 1).double()
    share = torch.where(of > 0, 1 / (sizes[of] * number), 0.0)
    order = flat.argsort(descending=True, stable=True)
    ordered = flat[order]
    ends = torch.ones(len(flat), dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    overlap = share[order].cumsum(0)[ends].numpy()
    rate = (of[order] == 0).double().cumsum(0)[ends].numpy() / outside
    rate, overlap = np.concatenate([[0.0], rate]), np.concatenate([[0.0], overlap])
    within = int(np.searchsorted(rate, most, side="right"))
    x, y = rate[:within], overlap[:within]
    if x[-1] < most:
        part = (most - x[-1]) / (rate[within] - x[-1])
        x, y = np.append(x, most), np.append(y, y[-1] + part * (overlap[within] - y[-1]))
    return float(np.trapezoid(y, x) / most)
