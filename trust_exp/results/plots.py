"""The data of a paper's figure: its panels with measured and printed numbers. Imports no torch.

Numbers are in the units of the axes: percent if the column's label has a %.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trust_exp.errors import UserError
from trust_exp.results.collect import Found
from trust_exp.results.comparison import SIZES, Number, Table, TableRow, classes_of, fill
from trust_exp.results.drawing import OF_CLASSES, Place
from trust_exp.results.experiments import EPOCH, Experiment, read


@dataclass(frozen=True)
class Point:
    """A point of a curve, or a bar: the measured and the paper's number, either of which may be missing."""

    x: float | str
    measured: Number | None
    paper: Number | None


@dataclass(frozen=True)
class Curve:
    """Points with one label, sorted by x if that is a number, else in the order of the rows."""

    label: str
    points: list[Point]


@dataclass(frozen=True)
class Matrix:
    """Numbers by row and column; None where there is none."""

    rows: list[str]
    columns: list[str]
    measured: list[list[Number | None]]
    paper: list[list[Number | None]]


@dataclass(frozen=True)
class Panel:
    """One plot: curves and levels, the curves as lines or as bars; or a matrix."""

    title: str
    label: str  # of the y axis
    kind: str
    curves: list[Curve] = field(default_factory=list)
    levels: list[Curve] = field(default_factory=list)  # of one point each, drawn across the panel
    matrix: Matrix | None = None


@dataclass(frozen=True)
class Figure:
    """Panels in rows from top to bottom, and the notes of the figure."""

    title: str
    x: str
    panels: list[list[Panel]]
    notes: list[str]
    missing: list[str]  # names of the rows without a measured number


def plot(name: str, results: Sequence[Found], size: str | None = None, overrides: Sequence[str] = ()) -> Figure:
    """A paper's figure from the given runs, all of one size.

    Args:
        name: of the figure; see ``experiments.names``.
        results: as for ``comparison.fill``.
        size: of the runs; None: the size with most measured rows.
        overrides: changes to every row.

    Raises:
        UserError: if there is no such figure or size, or it is a table.
    """
    experiment = read(name)
    if experiment.figure is None:
        raise UserError(f"{name} is a table and has no figure: its description has no part 'figure'")
    table = fill(name, results, size, overrides)
    sizes = [row.size for row in table.rows if row.size]
    if len(set(sizes)) > 1:
        tried = {one: fill(name, results, one, overrides) for one in sorted(set(sizes), key=SIZES.index)}
        table = max(tried.values(), key=lambda filled: sum(row.is_measured for row in filled.rows))
    runs = {found.id: found for found in results}
    drawing = experiment.figure
    panels = [[_panel(experiment, table, place, runs) for place in row] for row in drawing.panels]
    missing = [row.name for row in table.rows if not (row.watched if row.x == EPOCH else row.is_measured)]
    return Figure(table.title, drawing.x, panels, _notes(table, len(missing)), missing)


def _notes(table: Table, missing: int) -> list[str]:
    counts = {cell.measured.n for row in table.rows for cell in row.cells.values() if cell.measured}
    counts |= {number.n for row in table.rows for one in row.watched for number in one.epochs.values()}
    sizes = {row.size for row in table.rows if row.size}
    found = [f"{len(table.rows) - missing} of {len(table.rows)} rows measured"]
    if counts:
        seeds = f"n = {min(counts)}" if len(counts) == 1 else f"n = {min(counts)} to {max(counts)}"
        spread = "; ± standard deviation over seeds" if max(counts) > 1 else ""
        found[0] += f", size={', '.join(sorted(map(str, sizes)))}, {seeds}{spread}"
    found += [f"no comparison with the paper: {why}" for why in sorted({row.reserve for row in table.rows} - {""})]
    if any(cell.paper for row in table.rows for cell in row.cells.values()):
        found.append(f"reported: {table.source}")
    return found


def _panel(experiment: Experiment, table: Table, place: Place, runs: dict[str, Found]) -> Panel:
    rows = [row for row in table.rows if place.group in (None, row.group)]
    scale, label = _scale(experiment, place)
    panel = Panel(place.title, label, place.kind)
    if place.kind in OF_CLASSES:
        members = [_Member(row, _of_classes(row, place.metrics[0], scale, runs)) for row in rows]
        if place.kind == "matrix":
            return replace(panel, matrix=_matrix(members, place.metrics[0], scale))
        return replace(panel, curves=(_by_class if place.kind == "classes" else _own_and_others)(members))
    if place.kind == "at":
        return replace(panel, kind="lines", curves=list(filter(_is_drawn, (_over(row, place, scale) for row in rows))))
    curves, levels = _curves_and_levels(experiment, rows, place, scale)
    return replace(panel, curves=list(filter(_is_drawn, curves)), levels=list(filter(_is_drawn, levels)))


def _curves_and_levels(
    experiment: Experiment, rows: Sequence[TableRow], place: Place, scale: float
) -> tuple[list[Curve], list[Curve]]:
    """Rows with an x as points of curves, or over the epochs as curves of their own; the others as levels."""
    curves: dict[str, list[Point]] = {}
    levels: list[Curve] = []
    several = len({row.curve for row in rows if row.x is not None}) > 1
    for row in rows:
        own = place.metrics if row.x is not None or place.level is None else (place.level,)
        for metric in own:
            cell = row.cells[metric]
            column = _without_unit(experiment.columns[metric]) if len(own) > 1 else ""
            name = _label(row, column, several or row.x in (None, EPOCH))
            if row.x == EPOCH:
                curves |= _over_epochs(row, metric, name, scale)
                continue
            measured, paper = _scaled(cell.measured, scale), _scaled(cell.paper, scale)
            if row.x is None:
                levels.append(Curve(name, [Point(0.0, measured, paper)]))
            else:
                x = row.x if isinstance(row.x, str) else float(row.x)
                curves.setdefault(name, []).append(Point(x, measured, paper))
    return [Curve(name, sorted(points, key=_place_on_axis)) for name, points in curves.items()], levels


def _over(row: TableRow, place: Place, scale: float) -> Curve:
    """A row's metrics over the numbers after @ in their names."""
    cells = [(float(metric.rpartition("@")[2]), row.cells[metric]) for metric in place.metrics]
    points = [Point(x, _scaled(cell.measured, scale), _scaled(cell.paper, scale)) for x, cell in cells]
    return Curve(row.curve or row.label, sorted(points, key=_place_on_axis))


def _over_epochs(row: TableRow, metric: str, name: str, scale: float) -> dict[str, list[Point]]:
    """A metric while a row's runs trained, as a curve for each split; those that are not of the test set say so."""
    return {
        name if one.split == "test" else f"{name} ({one.split})": [
            Point(float(epoch), _scaled(number, scale), None) for epoch, number in one.epochs.items()
        ]
        for one in row.watched
        if one.metric == metric
    }


def _place_on_axis(point: Point) -> float:
    return 0.0 if isinstance(point.x, str) else point.x  # names stay in the order of their rows


def _is_drawn(curve: Curve) -> bool:
    return any(point.measured or point.paper for point in curve.points)


def _label(row: TableRow, column: str, several: bool) -> str:
    """The label of a curve: its column's if the panel has several columns, with its own if it has several curves."""
    own = row.curve or row.label
    return ", ".join(filter(None, (column, own))) if several or not column else column


def _scale(experiment: Experiment, place: Place) -> tuple[float, str]:
    """The factor of a panel's numbers and the label of its y axis: the words that the metrics' labels share."""
    labels = [experiment.columns[metric] for metric in place.metrics] if place.label is None else [place.label]
    percent = any("%" in label for label in labels)
    text = labels[0] if len(labels) == 1 else _shared(list(map(_without_unit, labels))) + (" (%)" if percent else "")
    return 100.0 if percent else 1.0, text


def _shared(labels: Sequence[str]) -> str:
    words = [label.split() for label in labels]
    shared = [parts[0] for parts in zip(*words, strict=False) if len(set(parts)) == 1]
    return " ".join(shared) or labels[0]


def _without_unit(label: str) -> str:
    return re.sub(r"\s*\(%\)", "", label)


def _scaled(number: Number | None, scale: float) -> Number | None:
    if number is None:
        return None
    return Number(scale * number.mean, None if number.std is None else scale * number.std, number.n)


# --- classes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A row, and a metric's mean over its runs for each class."""

    row: TableRow
    numbers: dict[str, Number]


def _of_classes(row: TableRow, metric: str, scale: float, runs: dict[str, Found]) -> dict[str, Number]:
    found: dict[str, list[float]] = {}
    for run in row.runs:
        for name, value in classes_of(runs[run], metric).items():
            found.setdefault(name, []).append(scale * value)
    return {name: Number.of(values) for name, values in found.items()}


def _by_class(members: Sequence[_Member]) -> list[Curve]:
    return [
        Curve(
            member.row.curve or member.row.label, [Point(name, number, None) for name, number in member.numbers.items()]
        )
        for member in members
        if member.numbers
    ]


def _own_and_others(members: Sequence[_Member]) -> list[Curve]:
    """Two curves: the class that is the row's x, and mean and deviation over the other classes."""
    own, others = [], []
    for member in members:
        x = str(member.row.x)
        rest = [number.mean for name, number in member.numbers.items() if name != x]
        if x in member.numbers and rest:
            own.append(Point(x, member.numbers[x], None))
            others.append(Point(x, Number.of(rest), None))
    return [Curve("the class itself", own), Curve("the others (mean ± deviation)", others)] if own else []


def _matrix(members: Sequence[_Member], metric: str, scale: float) -> Matrix:
    """The rows that have an x by the classes of the metric, including classes that only the paper names."""
    named = [member for member in members if member.row.x is not None]
    printed = [key[len(metric) + 1 : -1] for one in named for key in one.row.cells if key.startswith(f"{metric}[")]
    columns = list(dict.fromkeys([*(name for one in named for name in one.numbers), *printed]))
    cells = [[one.row.cells.get(f"{metric}[{name}]") for name in columns] for one in named]
    return Matrix(
        [str(one.row.x) for one in named],
        columns,
        [[one.numbers.get(name) for name in columns] for one in named],
        [[None if cell is None else _scaled(cell.paper, scale) for cell in row] for row in cells],
    )
