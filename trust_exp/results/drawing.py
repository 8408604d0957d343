"""The layout of an experiment's figure: the part ``figure`` of its description. Imports no torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trust_exp.errors import UserError

KINDS = ("lines", "at", "bars", "classes", "own", "matrix")
OF_CLASSES = ("classes", "own", "matrix")


@dataclass(frozen=True)
class Place:
    """One panel: the metrics on its y axis, of the rows in one group (None: of all rows).

    ``kind``: lines over a number x; lines over the numbers after the @ of the metrics, a curve for each row (at); bars
    over a named x; and of the classes of a metric: bars (classes), bars over x of the class x and of the mean of the
    others (own), or the matrix of x and the classes.
    """

    metrics: tuple[str, ...]
    group: str | None
    title: str
    kind: str = "lines"
    label: str | None = None  # of the y axis; None: from the labels of the columns
    level: str | None = None  # metric of the rows without an x; None: the panel's own


@dataclass(frozen=True)
class Drawing:
    """A figure: the label of its x axis, and its panels in rows from the top to the bottom."""

    x: str
    panels: tuple[tuple[Place, ...], ...]


def read_drawing(path: Path, figure: Any, columns: Mapping[str, str], groups: Sequence[str | None]) -> Drawing:
    """Read the layout of a figure; without ``panels``, one row per table column and one column per group.

    Args:
        path: of the description, for error messages.
        figure: ``x``, the label of the x axis, and perhaps ``panels``: lists of panels, each with ``y`` (a metric or
            several), and perhaps ``group``, ``title``, ``kind``, ``label`` and ``level``.
        columns: metrics and their labels.
        groups: those of the rows, in their order.

    Raises:
        UserError: if it is invalid.
    """
    if not isinstance(figure, dict) or not {"x"} <= figure.keys() <= {"x", "panels"}:
        raise UserError(f"{path}: figure must have x, and panels if it needs them; got {figure!r}")
    if "panels" not in figure:
        one = len(groups) == 1
        rows = [
            tuple(Place((metric,), None if one else group, "" if one else str(group)) for group in groups)
            for metric in columns
        ]
        return Drawing(str(figure["x"]), tuple(rows))
    grid = figure["panels"]
    if not isinstance(grid, list) or not grid or not all(isinstance(row, list) and row for row in grid):
        raise UserError(f"{path}: figure.panels must be a list of rows of panels; got {grid!r}")
    panels = [tuple(_read_place(path, item, columns, groups) for item in row) for row in grid]
    return Drawing(str(figure["x"]), tuple(panels))


def _read_place(path: Path, panel: Any, columns: Mapping[str, str], groups: Sequence[str | None]) -> Place:
    if not isinstance(panel, dict) or not {"y"} <= panel.keys() <= {"y", "group", "title", "kind", "label", "level"}:
        raise UserError(
            f"{path}: a panel must have y, and group, title, kind, label and level if it needs them; got {panel!r}"
        )
    metrics = panel["y"] if isinstance(panel["y"], list) else [panel["y"]]
    kind, group = panel.get("kind", "lines"), panel.get("group")
    label, level = panel.get("label"), panel.get("level")
    if kind not in KINDS:
        raise UserError(f"{path}: the kind of a panel must be one of {', '.join(KINDS)}; got {kind!r}")
    if group is not None and group not in groups:
        raise UserError(f"{path}: no row is of the group {group!r}; there are {', '.join(map(str, groups))}")
    if kind in OF_CLASSES and (label is None or len(metrics) > 1):
        raise UserError(f"{path}: a panel of the kind {kind} needs a label, and one metric; got {panel!r}")
    if kind == "at" and not all(re.fullmatch(r".+@[\d.]+", metric) for metric in metrics):
        raise UserError(f"{path}: a panel of the kind at needs metrics that end in @<number>; got {metrics!r}")
    drawn = [*([] if kind in OF_CLASSES else metrics), *([] if level is None else [level])]
    if lost := [metric for metric in drawn if metric not in columns]:
        raise UserError(f"{path}: there is no column {', '.join(lost)} to draw")
    return Place(tuple(metrics), group, str(panel.get("title", group or "")), kind, label, level)
