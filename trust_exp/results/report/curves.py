"""Learning curves of a run: the logs of all its starts, merged by step and thinned for plotting."""

import csv
import math
from pathlib import Path
from typing import Any

MOST_POINTS = 200
Points = dict[int, float]


def curves_of(folder: Path, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """The curves in ``<folder>/curves/version_*/metrics.csv``, by name.

    Returns:
        For each its ``name``, ``steps`` and ``values`` (equally long, finite, at most ``most``), and how many values
        are ``not_finite``; these are left out.
    """
    merged: dict[str, Points] = {}
    for path in sorted(folder.glob("curves/version_*/metrics.csv"), key=_start):
        for name, points in logged(path).items():
            merged[name] = _continued(merged.get(name, {}), points)
    return [_drawable(name, merged[name], most) for name in sorted(merged)]


def logged(path: Path) -> dict[str, Points]:
    """Values by step, for each column of a metrics.csv; an incomplete last line is ignored."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        header, *lines = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    except (OSError, ValueError, csv.Error):
        return {}
    if "step" not in header:
        return {}
    place = header.index("step")
    columns: list[tuple[int, Points]] = [(i, {}) for i in range(len(header))]
    for cells in lines:
        try:
            step = int(float(cells[place]))
        except (IndexError, OverflowError, ValueError):
            continue
        for i, points in columns:
            try:
                points[step] = float(cells[i])
            except (IndexError, ValueError):
                continue
    return {header[i]: points for i, points in columns if points and header[i] not in ("step", "epoch", "")}


def thin(steps: list[int], values: list[float], most: int = MOST_POINTS) -> tuple[list[int], list[float]]:
    """At most ``most`` points (at least 4): the first, the last, and the smallest and largest of equal parts."""
    n = len(steps)
    if n <= most:
        return steps, values
    parts = (most - 2) // 2
    kept = {0, n - 1}
    for part in range(parts):
        inside = range(n * part // parts, n * (part + 1) // parts)
        kept |= {min(inside, key=values.__getitem__), max(inside, key=values.__getitem__)}
    return [steps[i] for i in sorted(kept)], [values[i] for i in sorted(kept)]


def _start(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("version_")
    return (int(number) if number.isdecimal() else -1, number)


def _continued(before: Points, after: Points) -> Points:
    """Merge the starts; a resumed run logs again what came after its checkpoint, and the later values count."""
    begin = min(after)
    return {step: value for step, value in before.items() if step < begin} | after


def _drawable(name: str, points: Points, most: int) -> dict[str, Any]:
    finite = sorted(point for point in points.items() if math.isfinite(point[1]))
    steps, values = thin([step for step, _ in finite], [value for _, value in finite], most)
    return {
        "name": name,
        "steps": steps,
        "values": [float(f"{value:.5g}") for value in values],
        "not_finite": len(points) - len(finite),
    }
