"""Runs as the page stores them: an index that is parsed at once, and the details of each run, parsed when it is opened.

Equal parts of configurations and environments are stored once and named by their number.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trust_exp.config import RootConfig
from trust_exp.identity import cell_id, identity
from trust_exp.results.collect import Collection, Found
from trust_exp.results.report.curves import curves_of
from trust_exp.results.report.figures import Album

LAST_LINES = 40
LAST_BYTES = 32_000
ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\n\t -~\u00a0-\U0010ffff]")


class Numbered:
    """Distinct values, each stored once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        """Index of ``value`` (JSON-like), which is added if it is new."""
        key = json.dumps(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]

    def by_key(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The mapping with each value replaced by its index."""
        return {key: self.number(value) for key, value in values.items()}


class Book:
    """All that the page knows: ``index`` and, in the same order, the ``details`` of each run; newest runs first.

    ``unreadable`` has a sentence for each run that could not be read or cannot be shown.
    """

    def __init__(self, found: Collection, figures_mb: float) -> None:
        self.unreadable = list(found.unreadable)
        self.shown: list[Found] = []
        self.runs: list[dict[str, Any]] = []
        self.details: list[dict[str, Any]] = []
        self.alarms: list[str] = []
        self.album = Album(figures_mb * 1e6)
        self._parts, self._measures = Numbered(), Numbered()
        self._cells: dict[str, str] = {}
        self._free: set[str] = set()
        for result in reversed(found.results):
            self._add(result)
        named = [(result.folder, [str(name) for name in result.values["figures"]]) for result in self.shown]
        for detail, figures in zip(self.details, self.album.add_all(named), strict=True):
            detail["figures"] = figures

    def index(self) -> dict[str, Any]:
        """The index for the page's tables."""
        return {
            "runs": self.runs,
            "parts": self._parts.values,
            "measures": self._measures.values,
            "free": sorted(self._free),
        }

    def _add(self, result: Found) -> None:
        try:
            summary, detail = self._summary(result), self._detail(result)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            path = result.folder / "result.json"
            self.unreadable.append(f"{path} cannot be shown: {type(error).__name__}: {error}")
            return
        self.shown.append(result)
        self.runs.append(summary)
        self.details.append(detail)
        self.alarms += alarms(result)

    def _summary(self, result: Found) -> dict[str, Any]:
        values = result.values
        for key in ("method", "dataset", "model", "size", "seed"):
            result.option(key)  # raises if it is not there
        config = self._parts.by_key(result.config)
        return {
            "id": result.id,
            "name": str(values["name"]),
            "status": str(values["status"]),
            "error": None if values["error"] is None else str(values["error"]),
            "started": str(values.get("started") or ""),
            "seconds": round(sum(values.get("seconds", {}).values()), 1),
            "cell": self._cell(result, config),
            "config": config,
            "evals": self._parts.number({suite: how.get("id") for suite, how in values.get("evals", {}).items()}),
            "rows": [self._row(row) for row in overall_rows(values)],
        }

    def _cell(self, result: Found, config: dict[str, int]) -> str:
        key = str({part: number for part, number in config.items() if part != "seed"})  # cell_id takes a millisecond
        if key not in self._cells:
            self._cells[key] = cell_of(result)
            self._free |= free_keys(result)
        return self._cells[key]

    def _row(self, row: Mapping[str, Any]) -> list[Any]:
        measure = {key: str(row[key]) for key in ("metric", "suite", "unit")}
        return [
            self._measures.number(measure),
            short(row["value"]),
            *(short(end) for end in row["interval"] or (None, None)),
            row["n"],
            self._parts.number(str(row["detail"].get("how", ""))),
        ]

    def _detail(self, result: Found) -> dict[str, Any]:
        values, folder = result.values, result.folder
        failed = values["status"] != "done"
        return {
            "folder": str(folder),
            "ended": values.get("ended"),
            "seconds": values.get("seconds", {}),
            "facts": {key: values.get(key) for key in ("steps", "samples_per_second", "peak_memory_mb")},
            "environment": self._parts.by_key(values.get("environment", {})),
            "elsewhere": self._parts.number(environments_of_evals(values)),
            "data": self._parts.number(values.get("data")),
            "classes": class_rows(values),
            "units": {row["metric"]: str(row["unit"]) for row in values["rows"] if "class" in row["detail"]},
            "curves": curves_of(folder),
            "traceback": last_lines(folder / "traceback.txt") if failed else "",
            "log": last_lines(folder / "log.txt") if failed else "",
        }


def cell_of(result: Found) -> str:
    """A name shared by all runs that differ in their seed only; the run's own if its schema is gone."""
    try:
        return cell_id(result.config)
    except Exception:  # a schema may fail in any way, and a report of many runs must not
        return f"run {result.id}"


def free_keys(result: Found) -> set[str]:
    """Dotted keys of a configuration that do not count for a run's identity; none if its schema is gone."""
    try:
        return dotted(result.config) - dotted(identity(result.config, RootConfig))
    except Exception:
        return set()


def dotted(node: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Keys of all values in a configuration, as typed on the command line."""
    keys = set()
    for key, value in node.items():
        keys |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return keys


def overall_rows(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows that are not about one class, then the metrics without a row."""
    named = set()
    for row in values["rows"]:
        named.add(row["metric"])
        if "class" not in row["detail"]:
            yield row
    for metric, value in values["metrics"].items():
        if metric not in named:
            suite = metric.partition("/")[0]
            yield {
                "suite": suite,
                "metric": metric,
                "value": value,
                "unit": "",
                "n": None,
                "interval": None,
                "detail": {},
            }


def class_rows(values: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Metric -> class -> value, ends of the interval, n."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in values["rows"]:
        if "class" in row["detail"]:
            ends = (short(end) for end in row["interval"] or (None, None))
            found.setdefault(row["metric"], {})[str(row["detail"]["class"])] = [short(row["value"]), *ends, row["n"]]
    return found


def environments_of_evals(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Where an eval ran, where that differs from the training."""
    trained = values.get("environment", {})
    found = {}
    for suite, how in values.get("evals", {}).items():
        differs = {key: value for key, value in how.get("environment", {}).items() if trained.get(key) != value}
        if differs:
            found[suite] = differs
    return found


def alarms(result: Found) -> Iterator[str]:
    """A sentence for each value that breaks its row's requirement."""
    for row in result.values["rows"]:
        if row["detail"].get("how") == "must be 0" and row["value"] != 0:
            yield f"{result.values['name']}: {row['metric']} is {row['value']:g} and must be 0"


def short(value: float | None) -> float | str | None:
    """A number to six digits; None for nan (not measured), a string for inf, which JSON lacks."""
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def last_lines(path: Path) -> str:
    """The end of a text file, without terminal colours; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(ESCAPE_SEQUENCE.sub("", text).splitlines()[-LAST_LINES:])
