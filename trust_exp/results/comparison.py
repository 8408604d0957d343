"""A paper's table beside what stored runs have measured.

A run belongs to a row if it has the row's identity, the seed left out. Imports no torch.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trust_exp.compose import Composer, composing
from trust_exp.errors import UserError
from trust_exp.identity import cell_id, eval_id
from trust_exp.references import cells_of
from trust_exp.results.collect import Found
from trust_exp.results.composing import check_size, compose_row, without_hydra
from trust_exp.results.experiments import EPOCH, Experiment, Printed, missing_choices, read
from trust_exp.results.record import is_measured

SIZES = ("full", "small", "smoke")  # a table shows the first that is measured


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
class Watched:
    """A metric of one split while a row's runs trained: its mean over the seeds after each epoch, in their order."""

    metric: str
    split: str
    epochs: dict[int, Number]


@dataclass(frozen=True)
class TableRow:
    """A row of a table; in a figure a point of ``curve`` at ``x``, or with ``x: epoch`` the curve in ``watched``.

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
    watched: tuple[Watched, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether any of its metrics is, after the training or while it went on."""
        return bool(self.watched) or any(cell.measured for cell in self.cells.values())


@dataclass(frozen=True)
class Table:
    """A paper's table beside our measurements; ``unreadable`` has a sentence for each result that fits no row."""

    name: str
    title: str
    source: str
    columns: dict[str, str]
    rows: list[TableRow]
    note: str | None = None
    overrides: tuple[str, ...] = ()
    unreadable: list[str] = field(default_factory=list)

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
        composer = Composer()
        rows = [_fill_row(experiment, row, stored, size, overrides, composer) for row in experiment.rows]
    return Table(
        name=name,
        title=experiment.title,
        source=experiment.source,
        columns=experiment.columns,
        rows=rows,
        note=experiment.note,
        overrides=overrides,
        unreadable=stored.unreadable,
    )


@dataclass
class Stored:
    """Finished results by cell (the identity without the seed) and seed.

    ``sizes`` are those of each pair of method and data set; ``unreadable`` has a sentence for each result whose
    configuration this version does not know.
    """

    cells: dict[str, dict[int, Found]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


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
            stored.unreadable.append(f"{found.folder} is of a configuration that this version does not know ({error})")
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
    experiment: Experiment,
    row: Printed,
    stored: Stored,
    size: str | None,
    overrides: tuple[str, ...],
    composer: Composer,
) -> TableRow:
    printed = {metric: _printed(row.paper.values.get(metric)) for metric in experiment.columns}
    empty = TableRow(
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
            own = compose_row(row, tried, composer=composer)
            checked = compose_row(row, tried, overrides, composer) if overrides else own
        except UserError as error:
            return replace(empty, state=f"not run, cannot yet: {error}")
        seeds = stored.cells.get(cell_id(checked), {})
        runs = [seeds[seed] for seed in sorted(seeds)]
        asked = _eval_ids(own)
        cells = {metric: _measure(runs, metric, number, asked) for metric, number in printed.items()}
        filled = replace(
            empty,
            state="",
            cells=cells,
            size=tried,
            reserve=_reserve(checked, overrides if cell_id(checked) != cell_id(own) else ()),
            seeds=tuple(sorted(seeds)),
            runs=tuple(run.id for run in runs),
            watched=tuple(one for name in cells for one in _watch(runs, name)) if row.paper.x == EPOCH else (),
        )
        if filled.is_measured:
            return filled
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
    suites = {run.id: suite_of(run, metric) for run, _ in found}
    evaluated = [(run, suites[run.id]) for run, _ in found if suites[run.id] in run.values.get("evals", {})]
    aside = any(not _was_asked(run, suite, asked.get(suite)) for run, suite in evaluated)
    return Cell(paper, Number.of([value for _, value in found]), aside)


def _watch(runs: Sequence[Found], metric: str) -> Iterator[Watched]:
    """The watched values of a metric, for each split; of an epoch that was repeated the last value counts."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        entries = [entry for entry in run.values.get("watched") or [] if is_measured(entry["metrics"].get(metric))]
        last = {(str(entry["split"]), int(entry["epoch"])): float(entry["metrics"][metric]) for entry in entries}
        for (split, epoch), value in last.items():
            found.setdefault(split, {}).setdefault(epoch, []).append(value)
    for split, epochs in sorted(found.items()):
        yield Watched(metric, split, {epoch: Number.of(epochs[epoch]) for epoch in sorted(epochs)})


def value_of(run: Found, metric: str) -> float | None:
    """A number of a run; of one class where the metric is ``<metric>[<class>]``. None if it has none."""
    name, _, of_class = metric.rstrip("]").partition("[")
    value = classes_of(run, name).get(of_class) if of_class else run.values["metrics"].get(metric)
    return float(value) if value is not None and is_measured(value) else None


def classes_of(run: Found, metric: str) -> dict[str, float]:
    """A metric's values for single classes, by class; ``difficulty/<measure>`` is read from the run's facts."""
    kind, _, measure = metric.partition("/")
    if kind == "difficulty":
        found: Any = run.values
        for key in ("facts", kind, measure, "classes"):
            found = found.get(key) or {}
        return {str(name): float(value) for name, value in found.items()}
    rows = [row for row in run.values.get("rows", []) if row["metric"] == metric and "class" in row["detail"]]
    return {str(row["detail"]["class"]): float(row["value"]) for row in rows if is_measured(row["value"])}


def suite_of(run: Found, metric: str) -> str:
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
