"""Tables of papers: the rows under experiments/, and beside their numbers what stored runs have measured.

A run belongs to a row if it has the row's identity, the seed left out. Imports no torch.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from trust_exp.compose import check, register
from trust_exp.config import PaperConfig
from trust_exp.errors import UserError, unknown
from trust_exp.identity import cell_id, eval_id
from trust_exp.messages import explain
from trust_exp.references import cells_of
from trust_exp.results.collect import Found
from trust_exp.results.drawing import Drawing, read_drawing
from trust_exp.results.series import choices, load, rows_in
from trust_exp.schema import CONF, ROOT

EXPERIMENTS = ROOT / "experiments"
SIZES = ("full", "small", "smoke")  # a table shows the first that is measured


# --- what a paper prints --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """One row: the table that its file belongs to, what it chooses (group -> name) and what the paper prints for it."""

    table: str
    name: str
    choices: dict[str, str]
    paper: PaperConfig


@dataclass(frozen=True)
class Experiment:
    """A paper's table or figure; ``columns`` maps metrics to the labels of their columns, in the paper's order.

    A metric of one class is ``<metric>[<class>]``. ``table`` is the one whose runs these are, most often itself.
    """

    name: str
    table: str
    title: str
    source: str
    columns: dict[str, str]
    rows: list[Printed]
    note: str | None = None
    figure: Drawing | None = None


def names() -> list[str]:
    """The tables that there are, such as ``cll/table_4_2``."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in EXPERIMENTS.glob("*/*.yaml"))


def read(name: str) -> Experiment:
    """A table's description and its rows.

    Raises:
        UserError: if there is no such table, or one of its files is not as it must be.
    """
    if name not in names():
        raise unknown("the table", name, names())
    path = EXPERIMENTS / f"{name}.yaml"
    told = load(path)
    if lacking := {"title", "source", "columns"} - told.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(lacking))}")
    if odd := told.keys() - {"title", "source", "columns", "note", "rows", "runs_of", "figure"}:
        raise UserError(f"{path}: {', '.join(sorted(odd))} means nothing here")
    columns = told["columns"]
    if not isinstance(columns, dict) or not columns or not all(str(label).strip() for label in columns.values()):
        raise UserError(f"{path}: columns must name metrics and their labels, such as {{clean/accuracy: Clean (%)}}")
    table, order, figure = told.pop("runs_of", name), told.pop("rows", []), told.pop("figure", None)
    if table != name and table not in names():
        raise UserError(f"{path}: runs_of must name another table; got {table!r}")
    rows = _read_rows(path, table, order)
    if table != name:  # there the numbers of its own columns are printed, here those of ours
        rows = [replace(row, paper=replace(row.paper, values=_only(row.paper.values, columns))) for row in rows]
    for row in rows:
        for metric in row.paper.values.keys() - columns.keys():
            raise UserError(f"{EXPERIMENTS / name / row.name}.yaml: {path} has no column {metric}")
    groups = list(dict.fromkeys(row.paper.group for row in rows))
    drawing = None if figure is None else read_drawing(path, figure, columns, groups)
    return Experiment(name=name, table=table, rows=rows, figure=drawing, **told)


def _only(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {metric: value for metric, value in values.items() if metric in columns}


def _read_rows(path: Path, table: str, order: Sequence[str]) -> list[Printed]:
    """The rows of a table, group by group; those first that ``order`` names, by their own name or by their file's."""
    found = [(file.stem, _read_row(file, table, name, told)) for file, name, told in rows_in(EXPERIMENTS / table)]
    places = {name: place for place, name in enumerate(order)}
    if lost := places.keys() - {name for file, row in found for name in (file, row.name)}:
        raise UserError(f"{path} names {', '.join(sorted(lost))}, which is not in {EXPERIMENTS / table}")
    last = len(order)
    rows = [row for _, row in sorted(found, key=lambda item: places.get(item[1].name, places.get(item[0], last)))]
    groups = list(dict.fromkeys(row.paper.group for row in rows))  # a file may have rows of several
    return sorted(rows, key=lambda row: groups.index(row.paper.group))


def _read_row(path: Path, table: str, name: str, told: Mapping[str, Any]) -> Printed:
    try:
        paper = PaperConfig(**told["paper"])
    except (KeyError, TypeError):
        raise UserError(
            f"{path} needs a part 'paper' with row, and with group, curve, x, values and note if it has them"
        ) from None
    for metric, value in paper.values.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise UserError(f"{path}: paper.values.{metric} must be a number or a list of numbers; got {value!r}")
    return Printed(table, name, choices(told), paper)


def missing_choices(row: Printed) -> str:
    """What a row chooses that does not exist (yet), in a few words; empty if all of it does."""
    lost = [
        f"{group} {choice!r} does not exist"
        for group, choice in row.choices.items()
        if isinstance(choice, str) and not (CONF / group / f"{choice}.yaml").exists()
    ]
    return ", ".join(lost)


# --- composing a row ------------------------------------------------------------------------------------------------


@cache
def _register_once() -> None:
    register()


@contextmanager
def composing() -> Iterator[None]:
    """Hydra ready for ``compose_row``."""
    _register_once()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def without_hydra(overrides: Iterable[str]) -> list[str]:
    """The overrides that say what is run, without those of hydra/... and hydra. that say how."""
    return [text for text in overrides if not text.lstrip("+~").startswith(("hydra/", "hydra."))]


def compose_row(row: Printed, size: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The checked configuration of a row at a size; within ``composing()``.

    Raises:
        UserError: if it cannot run, as it chooses what does not exist (yet) or sets what cannot be.
    """
    if lost := missing_choices(row):
        raise UserError(lost)
    try:
        given = [f"+experiments/{row.table}={row.name}", f"size={size}", *without_hydra(overrides)]
        return check(compose("config", given))
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def check_overrides(name: str, size: str, overrides: Sequence[str]) -> None:
    """Raise UserError for overrides with which no row can be composed, though one can be without them."""
    refused: UserError | None = None
    with composing():
        for row in read(name).rows if overrides else ():
            try:
                compose_row(row, size, overrides)
                return
            except UserError as error:
                refused = refused or (None if missing_choices(row) else error)
    if refused is not None:
        raise refused


def check_size(size: str) -> None:
    """Raise UserError unless there is such a size."""
    known = [path.stem for path in (CONF / "size").glob("*.yaml")]
    if size not in known:
        raise unknown("the size", size, known)


# --- what is measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """Mean of ``n`` numbers in the metric's unit; ``std`` is their sample standard deviation, None for one number."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Number":
        """Raises StatisticsError for no values."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))


@dataclass(frozen=True)
class Cell:
    """One metric of a row. ``aside``: some of it was measured with other settings of the eval than the row's."""

    paper: Number | None = None
    measured: Number | None = None
    aside: bool = False

    @property
    def difference(self) -> float | None:
        """Measured less printed, in the metric's unit; None unless both are there."""
        return None if self.paper is None or self.measured is None else self.measured.mean - self.paper.mean


@dataclass(frozen=True)
class Row:
    """A row of a table; in a figure a point of ``curve`` at ``x``.

    ``state`` is empty if something is measured, else "not run" or "not run, cannot yet: ..."; ``reserve`` says why
    what is measured must not be held against the paper (less data, other settings), and is empty if it may be.
    """

    name: str
    label: str
    cells: dict[str, Cell]
    group: str | None = None
    curve: str | None = None
    x: Any = None
    note: str | None = None
    state: str = ""
    size: str | None = None
    reserve: str = ""
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()  # their ids, in the order of the seeds

    @property
    def is_measured(self) -> bool:
        """Whether any of its metrics is."""
        return any(cell.measured for cell in self.cells.values())


@dataclass(frozen=True)
class Table:
    """A paper's table with what is measured; ``odd`` names results that could not be placed, one sentence each."""

    name: str
    title: str
    source: str
    columns: dict[str, str]
    rows: list[Row]
    note: str | None = None
    overrides: tuple[str, ...] = ()
    odd: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether no cell is measured."""
        return not any(row.is_measured for row in self.rows)


def fill(name: str, results: Sequence[Found], size: str | None = None, overrides: Sequence[str] = ()) -> Table:
    """A paper's table with the means over all finished runs that have the identity of one of its rows.

    Args:
        name: of the table; see ``names``.
        results: all that there are; those that are not done do not count, later ones replace earlier ones.
        size: of the runs to show; None: full where it is measured, else small, else smoke, for each row.
        overrides: changes to every row; each number then says so.

    Raises:
        UserError: if there is no such table or size.
    """
    if size is not None:
        check_size(size)
    experiment = read(name)
    overrides = tuple(without_hydra(overrides))
    # An override may change what a row chooses, so only without any do its choices tell which results matter.
    pairs = None if overrides else {_pair_of(row.choices) for row in experiment.rows if not missing_choices(row)}
    stored = place(results, pairs)
    with composing():
        rows = [_fill_row(experiment, row, stored, size, overrides) for row in experiment.rows]
    return Table(
        name=name,
        title=experiment.title,
        source=experiment.source,
        columns=experiment.columns,
        rows=rows,
        note=experiment.note,
        overrides=overrides,
        odd=stored.odd,
    )


@dataclass
class Stored:
    """Finished results by cell (the identity without the seed) and seed.

    ``sizes`` are those that a pair of method and data set has; ``odd`` has a sentence for each result that has no
    identity any more.
    """

    cells: dict[str, dict[int, Found]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)


def place(results: Iterable[Found], pairs: set[tuple[str, str]] | None = None) -> Stored:
    """Sort finished results into cells; only those of the given pairs of method and data set, if any are given."""
    stored = Stored()
    for found in results:
        if found.values["status"] != "done":
            continue
        try:
            config = found.values["config"]
            pair = (config["method"]["name"], config["dataset"]["name"])
            if pairs is None or pair in pairs:
                for cell in cells_of(config):
                    stored.cells.setdefault(cell, {})[int(config["seed"])] = found
                stored.sizes.setdefault(pair, set()).add(str(config["size"]))
        except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
            stored.odd.append(f"{found.folder} is of a configuration that this version does not know ({error})")
    return stored


def is_whole(found: Found, checked: Mapping[str, Any]) -> bool:
    """Whether a finished run has the rows of every eval that a configuration asks for."""
    return all(_was_asked(found, suite, asked) for suite, asked in _eval_ids(checked).items())


def _pair_of(choices: Mapping[str, str]) -> tuple[str, str]:
    return str(choices.get("method")), str(choices.get("dataset"))


def _eval_ids(checked: Mapping[str, Any]) -> dict[str, str]:
    return {suite: eval_id(node) for suite, node in checked["eval"].items()}


def _was_asked(found: Found, suite: str, asked: str | None) -> bool:
    how = found.values.get("evals", {}).get(suite) or {}
    return bool(how.get("id") == asked)


def _fill_row(
    experiment: Experiment, row: Printed, stored: Stored, size: str | None, overrides: tuple[str, ...]
) -> Row:
    printed = {metric: _printed(row.paper.values.get(metric)) for metric in experiment.columns}
    empty = Row(
        name=row.name,
        label=row.paper.row,
        cells={metric: Cell(number) for metric, number in printed.items()},
        group=row.paper.group,
        curve=row.paper.curve,
        x=row.paper.x,
        note=row.paper.note,
        state="not run",
    )
    if lost := missing_choices(row):
        return replace(empty, state=f"not run, cannot yet: {lost}")
    for tried in _sizes_of(stored, None if overrides else _pair_of(row.choices), size):
        try:
            own = compose_row(row, tried)
            checked = compose_row(row, tried, overrides) if overrides else own
        except UserError as error:
            return replace(empty, state=f"not run, cannot yet: {error}")
        seeds = stored.cells.get(cell_id(checked), {})
        runs = [seeds[seed] for seed in sorted(seeds)]
        asked = _eval_ids(own)
        cells = {metric: _measure(runs, metric, number, asked) for metric, number in printed.items()}
        if any(cell.measured for cell in cells.values()):
            return replace(
                empty,
                state="",
                cells=cells,
                size=tried,
                reserve=_reserve(checked, overrides if cell_id(checked) != cell_id(own) else ()),
                seeds=tuple(sorted(seeds)),
                runs=tuple(run.id for run in runs),
            )
    return empty


def _printed(value: Any) -> Number | None:
    if value is None:
        return None
    return Number.of(value if isinstance(value, list) else [value])


def _sizes_of(stored: Stored, pair: tuple[str, str] | None, size: str | None) -> list[str]:
    """The sizes worth composing a row at: those that results of its pair have (None: any), the fullest first."""
    present = set().union(*stored.sizes.values()) if pair is None else stored.sizes.get(pair, set())
    if size is not None:
        return [size] if size in present else []
    return sorted(present, key=lambda name: (SIZES.index(name) if name in SIZES else 1.5, name))


def _measure(runs: Sequence[Found], metric: str, paper: Number | None, asked: Mapping[str, str]) -> Cell:
    found = [(run, value) for run in runs if (value := value_of(run, metric)) is not None]
    if not found:
        return Cell(paper)
    suites = {run.id: _suite_of(run, metric) for run, _ in found}
    evaluated = [(run, suites[run.id]) for run, _ in found if suites[run.id] in run.values.get("evals", {})]
    aside = any(not _was_asked(run, suite, asked.get(suite)) for run, suite in evaluated)
    return Cell(paper, Number.of([value for _, value in found]), aside)


def value_of(run: Found, metric: str) -> float | None:
    """A number of a run; of one class where the metric is ``<metric>[<class>]``. None if it has none."""
    name, _, of_class = metric.rstrip("]").partition("[")
    value = classes_of(run, name).get(of_class) if of_class else run.values["metrics"].get(metric)
    return float(value) if isinstance(value, int | float) else None


def classes_of(run: Found, metric: str) -> dict[str, float]:
    """What a run has of a metric for single classes, by class; ``difficulty/<measure>`` is among what it found out."""
    kind, _, measure = metric.partition("/")
    if kind == "difficulty":
        told = run.values.get("facts", {}).get("difficulty", {}).get(measure, {}).get("classes", {})
        return {str(name): float(value) for name, value in told.items()}
    rows = [row for row in run.values.get("rows", []) if row["metric"] == metric and "class" in row["detail"]]
    return {str(row["detail"]["class"]): float(row["value"]) for row in rows}


def _suite_of(run: Found, metric: str) -> str:
    """The suite that gave a metric; most are called after it."""
    name = metric.partition("[")[0]
    suites = (str(row["suite"]) for row in run.values.get("rows", []) if row["metric"] == name)
    return next(suites, metric.partition("/")[0])


def _reserve(checked: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Why what is measured must not be held against the paper; empty if it may be."""
    reasons = []
    if checked["size"] != "full":
        reasons.append(f"size {checked['size']}: less data or fewer steps than the paper")
    if checked["recipe"] is None:
        reasons.append("no recipe: not the paper's schedule")
    if overrides:
        reasons.append(f"changed: {' '.join(overrides)}")
    return "; ".join(reasons)
