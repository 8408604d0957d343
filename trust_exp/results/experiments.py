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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trust_exp.config import CONF, ROOT, PaperConfig, cell_id, check, eval_id, register
from trust_exp.errors import UserError, unknown
from trust_exp.messages import explain
from trust_exp.results.collect import Found

EXPERIMENTS = ROOT / "experiments"
SIZES = ("full", "small", "smoke")  # a table shows the first that is measured


# --- what a paper prints --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """One row's file: what it chooses (group -> name) and what the paper prints for it."""

    name: str
    choices: dict[str, str]
    paper: PaperConfig


@dataclass(frozen=True)
class Experiment:
    """A paper's table or figure; ``columns`` maps metrics to the labels of their columns, in the paper's order."""

    name: str
    title: str
    source: str
    columns: dict[str, str]
    rows: list[Printed]
    note: str | None = None


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
    told = _load(path)
    if lacking := {"title", "source", "columns"} - told.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(lacking))}")
    if odd := told.keys() - {"title", "source", "columns", "note", "rows"}:
        raise UserError(f"{path}: {', '.join(sorted(odd))} means nothing here")
    columns = told["columns"]
    if not isinstance(columns, dict) or not columns or not all(str(label).strip() for label in columns.values()):
        raise UserError(f"{path}: columns must name metrics and their labels, such as {{clean/accuracy: Clean (%)}}")
    order = {row: position for position, row in enumerate(told.pop("rows", []))}
    files = sorted((EXPERIMENTS / name).glob("*.yaml"), key=lambda file: (order.get(file.stem, len(order)), file.stem))
    if lost := order.keys() - {file.stem for file in files}:
        raise UserError(f"{path} names {', '.join(sorted(lost))}, which is not in {path.with_suffix('')}")
    for row in (rows := [_read_row(file) for file in files]):
        for metric in row.paper.values.keys() - told["columns"].keys():
            raise UserError(f"{EXPERIMENTS / name / row.name}.yaml: {path} has no column {metric}")
    return Experiment(name=name, rows=rows, **told)


def _load(path: Path) -> dict[str, Any]:
    try:
        value = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no keys and values")
    return {str(key): item for key, item in value.items()}


def _read_row(path: Path) -> Printed:
    told = _load(path)
    choices = {}
    for entry in told.get("defaults", []):
        if isinstance(entry, dict):
            ((group, choice),) = entry.items()
            choices[str(group).removeprefix("override ").strip().lstrip("/")] = choice
    try:
        paper = PaperConfig(**told["paper"])
    except (KeyError, TypeError):
        raise UserError(
            f"{path} needs a part 'paper' with row, and with group, values and note if it has them"
        ) from None
    for metric, value in paper.values.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise UserError(f"{path}: paper.values.{metric} must be a number or a list of numbers; got {value!r}")
    return Printed(path.stem, choices, paper)


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


def compose_row(name: str, row: Printed, size: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The checked configuration of a row at a size; within ``composing()``.

    Raises:
        UserError: if it cannot run, as it chooses what does not exist (yet) or sets what cannot be.
    """
    if lost := missing_choices(row):
        raise UserError(lost)
    try:
        return check(compose("config", [f"+experiments/{name}={row.name}", f"size={size}", *without_hydra(overrides)]))
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
                compose_row(name, row, size, overrides)
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
    """A row of a table.

    ``state`` is empty if something is measured, else "not run" or "not run, cannot yet: ..."; ``reserve`` says why
    what is measured must not be held against the paper (less data, other settings), and is empty if it may be.
    """

    name: str
    label: str
    cells: dict[str, Cell]
    group: str | None = None
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
                stored.cells.setdefault(cell_id(config), {})[int(config["seed"])] = found
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
        note=row.paper.note,
        state="not run",
    )
    if lost := missing_choices(row):
        return replace(empty, state=f"not run, cannot yet: {lost}")
    for tried in _sizes_of(stored, None if overrides else _pair_of(row.choices), size):
        try:
            own = compose_row(experiment.name, row, tried)
            checked = compose_row(experiment.name, row, tried, overrides) if overrides else own
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
    having = [run for run in runs if isinstance(run.values["metrics"].get(metric), int | float)]
    if not having:
        return Cell(paper)
    suite = metric.partition("/")[0]
    evaluated = [run for run in having if suite in run.values.get("evals", {})]
    aside = any(not _was_asked(run, suite, asked.get(suite)) for run in evaluated)
    return Cell(paper, Number.of([float(run.values["metrics"][metric]) for run in having]), aside)


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
