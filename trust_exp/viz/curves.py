"""A figure of several panels: lines with bands, bars and matrices of classes, with the paper's numbers as marks."""

import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from trust_exp.results.plots import Curve, Figure, Matrix, Panel
from trust_exp.viz.style import COLOURS, STYLE, save

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "v", "D")
LEVELS = ("#787774", "#d9a441", "#37352f")  # greys and a yellow: lines across a panel
REPORTED: dict[str, Any] = {
    "marker": "D",
    "markersize": 6,
    "markerfacecolor": "white",
    "linestyle": "none",
    "zorder": 5,
}
LETTERS = 15  # that fit into an inch of the notes
LINE = 0.15  # height of a line of the notes or the legend in inches
Look = dict[str, dict[str, Any]]  # how the curve of a label is drawn


def draw_curves(path: Path, figure: Figure) -> Path:
    """Draw a figure into a file, see ``save``; the paper's numbers are white diamonds, in a matrix in brackets."""
    columns, (width, height) = max(len(row) for row in figure.panels), _size(figure)
    across = max(width * columns, 4.2)
    look = _looks(figure)
    entries = _entries(figure, look)
    notes = [line for note in figure.notes for line in textwrap.wrap(note, int(LETTERS * across))]
    ncols = max(1, min(len(entries), int(across / 1.5)))
    legend = LINE * 1.5 * -(-len(entries) // ncols) + 0.1
    foot = legend + LINE * len(notes) + 0.1
    with mpl.rc_context(STYLE):
        canvas = Canvas((across, height * len(figure.panels) + foot + 0.3), layout="constrained")
        FigureCanvasAgg(canvas)
        parts: Any = canvas.subfigures(2, 1, height_ratios=[height * len(figure.panels) + 0.3, foot])
        above, below = parts
        _draw_panels(above.subplots(len(figure.panels), columns, squeeze=False), figure, look)
        above.suptitle("\n".join(textwrap.wrap(figure.title, int(9 * across))), fontsize=10)
        if entries:
            below.legend(handles=entries, loc="upper center", ncols=ncols, fontsize=8)
        below.text(0.5, 1 - legend / foot, "\n".join(notes), ha="center", va="top", fontsize=6.5, color="0.3")
        path.parent.mkdir(parents=True, exist_ok=True)
        save(canvas, path, path.suffix)
    return path


def _size(figure: Figure) -> tuple[float, float]:
    """Width and height of a panel in inches: room for the names on the axes."""
    panels = [panel for row in figure.panels for panel in row]
    if all(panel.kind == "lines" for panel in panels):
        return 2.9, 2.2
    names = [len(_names(panel)) if panel.matrix is None else len(panel.matrix.columns) for panel in panels]
    return max(4.0, 0.36 * max(names)), 3.2


def _looks(figure: Figure) -> Look:
    """The same look for the same label in all panels."""
    panels = [panel for row in figure.panels for panel in row]
    curves = dict.fromkeys(curve.label for panel in panels for curve in panel.curves)
    levels = dict.fromkeys(level.label for panel in panels for level in panel.levels)
    styles = zip(curves, cycle(COLOURS), cycle(LINES), cycle(MARKERS), strict=False)
    look: Look = {name: {"color": colour, "linestyle": line, "marker": marker} for name, colour, line, marker in styles}
    for name, colour, line in zip(levels, cycle(LEVELS), cycle(LINES), strict=False):
        look[name] = {"color": colour, "linestyle": line}
    return look


def _entries(figure: Figure, look: Look) -> list[Artist]:
    panels = [panel for row in figure.panels for panel in row]
    as_bars = {curve.label for panel in panels if panel.kind != "lines" for curve in panel.curves}
    entries: list[Artist] = [
        Patch(label=name, color=how["color"]) if name in as_bars else Line2D([], [], label=name, markersize=4, **how)
        for name, how in look.items()
    ]
    drawn = [curve for panel in panels for curve in [*panel.curves, *panel.levels]]
    if any(point.paper for curve in drawn for point in curve.points):
        entries.append(Line2D([], [], label="reported", markeredgecolor="black", **REPORTED))
    return entries


def _draw_panels(grid: np.ndarray, figure: Figure, look: Look) -> None:
    for place, panels in enumerate(figure.panels):
        above = figure.panels[place - 1] if place else []
        for column, plot in enumerate(grid[place]):
            if column >= len(panels):
                plot.set_axis_off()
                continue
            panel = panels[column]
            _draw(plot, panel, look)
            if column >= len(above) or above[column].title != panel.title:
                plot.set_title(panel.title)
            if column == 0 or panels[column - 1].label != panel.label:
                plot.set_ylabel(panel.label if panel.matrix is None else figure.x)
            if place == len(figure.panels) - 1 or panel.kind != "lines":
                plot.set_xlabel("class" if panel.kind in ("classes", "matrix") else figure.x)


def _draw(plot: Axes, panel: Panel, look: Look) -> None:
    if panel.matrix is not None:
        _draw_matrix(plot, panel.matrix)
        return
    if panel.kind == "lines":
        for curve in panel.curves:
            _draw_line(plot, curve, look[curve.label])
    else:
        _draw_bars(plot, panel, look)
    for level in panel.levels:
        _draw_level(plot, level, look[level.label])
    if not any(point.measured for curve in [*panel.curves, *panel.levels] for point in curve.points):
        plot.text(0.5, 0.5, "not measured", transform=plot.transAxes, ha="center", va="center", color="0.5")
    low, high = plot.get_ylim()
    room = max(0.0, 5.0 - (high - low)) / 2 if "%" in panel.label else 0.0  # so that noise does not look like a trend
    plot.set_ylim(max(low - room, 0.0 if low >= 0 else low), high + room)
    if "%" in panel.label:
        plot.set_ylim(max(plot.get_ylim()[0], -3.0), min(plot.get_ylim()[1], 103.0))


def _draw_line(plot: Axes, curve: Curve, look: dict[str, Any]) -> None:
    found = [(float(point.x), point.measured) for point in curve.points if point.measured is not None]
    if found:
        x = np.array([place for place, _ in found])
        mean = np.array([number.mean for _, number in found])
        spread = np.array([number.std or 0.0 for _, number in found])
        plot.plot(x, mean, markersize=3.5, linewidth=1.4, **look)
        plot.fill_between(x, mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    for point in curve.points:
        if point.paper is not None:
            plot.plot([float(point.x)], [point.paper.mean], markeredgecolor=look["color"], **REPORTED)


def _draw_level(plot: Axes, level: Curve, look: dict[str, Any]) -> None:
    """A line across the panel; the reported value is marked at its right end."""
    (point,) = level.points
    if point.measured is not None:
        mean, spread = point.measured.mean, point.measured.std or 0.0
        plot.axhline(mean, linewidth=1.4, zorder=2.5, **look)
        plot.axhspan(mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    if point.paper is not None:
        right = plot.get_yaxis_transform()
        plot.plot([1.0], [point.paper.mean], transform=right, clip_on=False, markeredgecolor=look["color"], **REPORTED)


def _names(panel: Panel) -> list[str]:
    return list(dict.fromkeys(str(point.x) for curve in panel.curves for point in curve.points))


def _draw_bars(plot: Axes, panel: Panel, look: Look) -> None:
    names, width = _names(panel), 0.8 / max(1, len(panel.curves))
    for number, curve in enumerate(panel.curves):
        shift = (number - (len(panel.curves) - 1) / 2) * width
        for point in curve.points:
            x = names.index(str(point.x)) + shift
            if point.measured is not None:
                error: Any = {"yerr": point.measured.std, "error_kw": {"elinewidth": 0.8, "capsize": 1.5}}
                plot.bar(x, point.measured.mean, width, color=look[curve.label]["color"], **error)
            if point.paper is not None:
                plot.plot([x], [point.paper.mean], markeredgecolor="black", **REPORTED)
    _name_axis(plot, "x", names)
    plot.set_xlim(-0.6, max(len(names), 1) - 0.4)
    plot.set_ylim(bottom=0)
    plot.grid(False, axis="x")


def _name_axis(plot: Axes, axis: str, names: Sequence[str]) -> None:
    if axis == "x":
        plot.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7.5)
    else:
        plot.set_yticks(range(len(names)), names, fontsize=7.5)


def _draw_matrix(plot: Axes, matrix: Matrix) -> None:
    """Cells with their numbers; cells whose row and column have the same name are framed."""
    empty = [[np.nan if cell is None else cell.mean for cell in row] for row in matrix.measured]
    values = np.array(empty, dtype=float).reshape(len(matrix.rows), len(matrix.columns))
    plot.grid(False)
    most = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    if values.size:
        plot.imshow(values, cmap="Blues", vmin=0, vmax=1.6 * max(most, 1e-9), aspect="auto")  # light, for black numbers
    for i, row in enumerate(matrix.measured):
        for j, cell in enumerate(row):
            printed = matrix.paper[i][j]
            parts = ["" if cell is None else f"{cell.mean:.0f}", "" if printed is None else f"[{printed.mean:.0f}]"]
            plot.text(j, i, "\n".join(filter(None, parts)), ha="center", va="center", fontsize=6.5, linespacing=0.95)
            if matrix.rows[i] == matrix.columns[j]:
                frame: Any = {"fill": False, "edgecolor": COLOURS[1], "linewidth": 1.4}
                plot.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **frame))
    _name_axis(plot, "x", matrix.columns)
    _name_axis(plot, "y", matrix.rows)
    if any(cell is not None for row in matrix.paper for cell in row):
        plot.annotate("[reported]", (1, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
                      ha="right", va="bottom", fontsize=6.5, color="0.3")  # fmt: skip
