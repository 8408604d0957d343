"""Clean and robust accuracy of each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trust_exp.viz.style import COLOURS, axes

MOST = 100  # classes that a figure names
CLEAN, IN_A, IN_B = "#d5d9dd", COLOURS[0], COLOURS[2]


def draw_class_accuracies(
    path: Path,
    names: Sequence[str],
    clean: Sequence[float],
    robust: Sequence[float],
    attacked: Sequence[bool],
    title: str,
) -> Path:
    """Bars for each class: robust in front of clean accuracy, the most robust class first (Losch 2024, Fig. 3.4).

    Args:
        names, clean, robust: of the classes; accuracies in [0, 1].
        attacked: whether training attacked images of the class.
    """
    order = np.argsort([-value for value in robust], kind="stable")
    with axes(path, width=max(4.8, 0.32 * len(names[:MOST]) + 1.2)) as plot:
        places = np.arange(len(order))
        plot.bar(places, np.array(clean)[order], width=0.8, color=CLEAN, label="clean")
        chosen = np.array(attacked, dtype=bool)[order]
        for mask, colour, label in ((chosen, IN_A, "robust, attacked in training"), (~chosen, IN_B, "robust")):
            if mask.any():
                plot.bar(places[mask], np.array(robust)[order][mask], width=0.55, color=colour, label=label)
        plot.set(
            ylabel="accuracy",
            title=title,
            ylim=(0, 1.17),
            yticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
            xlim=(-0.7, len(order) - 0.3),
        )
        if len(order) <= MOST:
            plot.set_xticks(places, [names[place] for place in order], rotation=45, ha="right")
        else:
            plot.set_xlabel(f"{len(order)} classes, the most robust first")
        plot.grid(visible=False, axis="x")
        plot.legend(loc="upper right", ncols=3, fontsize=8)
    return path
