"""Certified accuracy over the radius."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trust_exp.viz.style import COLOURS, axes


def draw_certified_accuracy(
    path: Path, radii_of: Mapping[str, np.ndarray], sizes: Mapping[str, int], marks: Sequence[float], title: str
) -> Path:
    """Draw the certified accuracy of each split over the radius.

    Args:
        radii_of: certified radii of the correctly classified samples, one array for each split.
        sizes: samples in each split.
        marks: radii to mark with their values.
    """
    with axes(path) as plot:
        for place, (split, radii) in enumerate(radii_of.items()):
            colour, below = COLOURS[place], (4, -11) if place else (4, 4)
            ordered = np.sort(radii[np.isfinite(radii)])
            height = (len(radii) - np.arange(len(ordered) + 1)) / sizes[split]
            plot.step(np.r_[0, ordered], height, where="post", color=colour, label=split)
            for mark in marks:
                level = (radii > mark).sum() / sizes[split]
                plot.plot(mark, level, "o", color=colour, markersize=4)
                plot.annotate(
                    f"{level:.1%}", (mark, level), color=colour, xytext=below, textcoords="offset points", fontsize=8
                )
        plot.set(xlabel="L2 radius (in the data's units)", ylabel="certified accuracy", title=title)
        plot.set_ylim(0, 1.05)
        plot.set_xlim(left=0)
        if len(radii_of) > 1:
            plot.legend()
    return path
