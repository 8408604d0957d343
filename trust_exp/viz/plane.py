"""A two-class classifier of the plane: its decision boundary, its margins, and the points that violate them."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trust_exp.viz.style import COLOURS, VIOLATED, axes

CELLS = 400


def draw_plane(
    path: Path,
    distance: Callable[[Tensor], Tensor],
    points: Tensor,
    labels: Tensor,
    violated: Tensor,
    radius: float,
    title: str,
) -> Path:
    """Draw boundary, the two margins at ``radius``, the points, and in red those inside a margin or misclassified.

    Args:
        distance: maps points [N, 2] to the certified signed distance to the boundary [N]; positive: class 1.
        points: [N, 2].
        labels: 0 or 1, [N].
        violated: bool [N].

    Source: the layout follows Losch 2024, Fig. 4.4.
    """
    low, high = points.amin(0) - 0.3, points.amax(0) + 0.3
    xs, ys = (torch.linspace(float(low[i]), float(high[i]), CELLS) for i in range(2))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
    levels = distance(grid).reshape(CELLS, CELLS).numpy()
    with axes(path, 5.4, 4.0) as plot:
        plot.contourf(xs, ys, levels, levels=[-1e9, 0, 1e9], colors=COLOURS[:2], alpha=0.08)
        plot.contour(xs, ys, levels, levels=[-radius, radius], colors="0.55", linewidths=1, linestyles="solid")
        plot.contour(xs, ys, levels, levels=[0], colors="black", linewidths=1.4)
        for label in range(2):
            own = (labels == label) & ~violated
            x, y = points[own].T
            plot.scatter(x, y, s=4, color=COLOURS[label], linewidths=0, label=f"class {label}")
        x, y = points[violated].T
        plot.scatter(x, y, s=12, color=VIOLATED, linewidths=0, label=f"violated ({int(violated.sum())})")
        plot.set(title=title, aspect="equal")
        plot.grid(False)
        plot.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=8)
    return path
