"""Tables and figures of papers, as the files under experiments/ describe them: columns, rows and printed numbers.

Imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trust_exp.config import PaperConfig
from trust_exp.errors import UserError, unknown
from trust_exp.results.drawing import Drawing, read_drawing
from trust_exp.results.series import choices, load, rows_in
from trust_exp.schema import CONF, ROOT

EXPERIMENTS = ROOT / "experiments"
EPOCH = "epoch"  # as the x of a row: the row is a curve over the epochs of its training


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
    content = load(path)
    if lacking := {"title", "source", "columns"} - content.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(lacking))}")
    if odd := content.keys() - {"title", "source", "columns", "note", "rows", "runs_of", "figure"}:
        raise UserError(f"{path}: {', '.join(sorted(odd))} means nothing here")
    columns = content["columns"]
    if not isinstance(columns, dict) or not columns or not all(str(label).strip() for label in columns.values()):
        raise UserError(f"{path}: columns must name metrics and their labels, such as {{clean/accuracy: Clean (%)}}")
    table, order, figure = content.pop("runs_of", name), content.pop("rows", []), content.pop("figure", None)
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
    return Experiment(name=name, table=table, rows=rows, figure=drawing, **content)


def _only(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {metric: value for metric, value in values.items() if metric in columns}


def _read_rows(path: Path, table: str, order: Sequence[str]) -> list[Printed]:
    """The rows of a table, group by group; those first that ``order`` names, by their own name or by their file's."""
    found = [(file.stem, _read_row(file, table, name, content)) for file, name, content in rows_in(EXPERIMENTS / table)]
    places = {name: place for place, name in enumerate(order)}
    if lost := places.keys() - {name for file, row in found for name in (file, row.name)}:
        raise UserError(f"{path} names {', '.join(sorted(lost))}, which is not in {EXPERIMENTS / table}")
    last = len(order)
    rows = [row for _, row in sorted(found, key=lambda item: places.get(item[1].name, places.get(item[0], last)))]
    groups = list(dict.fromkeys(row.paper.group for row in rows))  # a file may have rows of several
    return sorted(rows, key=lambda row: groups.index(row.paper.group))


def _read_row(path: Path, table: str, name: str, content: Mapping[str, Any]) -> Printed:
    try:
        paper = PaperConfig(**content["paper"])
    except (KeyError, TypeError):
        raise UserError(
            f"{path} needs a part 'paper' with row, and with group, curve, x, values and note if it has them"
        ) from None
    for metric, value in paper.values.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise UserError(f"{path}: paper.values.{metric} must be a number or a list of numbers; got {value!r}")
    return Printed(table, name, choices(content), paper)


def missing_choices(row: Printed) -> str:
    """A few words on the choices of a row that do not exist (yet); empty if all do."""
    lost = [
        f"{group} {choice!r} does not exist"
        for group, choice in row.choices.items()
        if isinstance(choice, str) and not (CONF / group / f"{choice}.yaml").exists()
    ]
    return ", ".join(lost)
