"""How hard the samples of each class are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trust_exp.viz.style import COLOURS, axes

MOST = 100  # classes that a figure names
SPREAD = [5, 25, 75, 95]  # percentiles


def draw_difficulty(path: Path, score: np.ndarray, labels: np.ndarray, names: Sequence[str], measure: str) -> Path:
    """Draw the scores of each class' samples, the hardest class first (the order of Losch 2024, Fig. A.1).

    The thin line spans 90 % of the samples, the thick one half of them; the dot is the mean. Classes without
    samples are left out.

    Args:
        score, labels: float64 and int [N], of the samples.
        names: of the classes.
    """
    groups = {name: score[labels == number] for number, name in enumerate(names)}
    order = sorted((name for name, group in groups.items() if group.size), key=lambda name: -groups[name].mean())
    spread = np.array([np.percentile(groups[name], SPREAD) for name in order])
    places = np.arange(len(order))
    with axes(path, width=max(4.8, 0.16 * len(order[:MOST]) + 1.2)) as plot:
        plot.vlines(places, spread[:, 0], spread[:, 3], color=COLOURS[0], linewidth=0.8, alpha=0.6)
        plot.vlines(places, spread[:, 1], spread[:, 2], color=COLOURS[0], linewidth=3, alpha=0.6)
        plot.plot(places, [groups[name].mean() for name in order], "o", color=COLOURS[1], markersize=3.5)
        plot.set(ylabel=measure, title=f"{len(score)} training samples by {measure}")
        if len(order) <= MOST:
            plot.set_xticks(places, order, rotation=60, ha="right", rotation_mode="anchor")
        else:
            plot.set_xlabel(f"{len(order)} classes, the hardest first")
        plot.grid(visible=False, axis="x")
    return path
