"""A result as a table on the console."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trust_exp.console import console
from trust_exp.recipes import recipe_line
from trust_exp.results.record import is_measured

NONE = "-"
MOST_FIGURES = 5  # that are named one by one


def print_result(result: Mapping[str, Any], folder: Path) -> None:
    """Print a run's numbers, how they were measured, its figures and the path of its result.json."""
    config, here = result["config"], Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    model = (config.get("model") or {}).get("name")
    print(f"\n{result['name']}: model {model}, size {config.get('size')}, seed {config.get('seed')}")
    table = Table(box=None, pad_edge=False)
    for column, justify in (("metric", "left"), ("value", "right"), ("95 %", "right"), ("n", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("how")
    for row in result["rows"]:
        if "class" not in row["detail"]:
            table.add_row(row["metric"], *cells(row))
    console().print(table)
    print()
    derived = {name.removeprefix("derived/"): value for name, value in result["metrics"].items() if "derived/" in name}
    for title, values in (("derived", derived), ("seconds", result.get("seconds"))):
        if values:
            print(f"{title}: " + ", ".join(f"{name} {value_text(value)}" for name, value in values.items()))
    print(f"recipe:  {recipe_line(config)}")
    figures = [folder / figure for figure in result["figures"]]
    if len(figures) > MOST_FIGURES:
        print(f"figures: {len(figures)} in {os.path.commonpath([figure.parent for figure in figures])}{os.sep}")
    else:
        for figure in figures:
            print(f"figure:  {figure}")
    print(f"result:  {folder / 'result.json'}", flush=True)


def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Value, interval, n and detail of a row as short texts."""
    value, n = value_text(row["value"], row["unit"]), "" if row["n"] is None else str(row["n"])
    return value, interval_text(row["interval"], row["unit"]), n, str(row["detail"].get("how", ""))


def value_text(value: Any, unit: str = "") -> str:
    """A value in its unit, a fraction as a percentage; - if nothing was measured."""
    if not is_measured(value):
        return NONE
    return f"{value:.2%}" if unit == "fraction" else f"{value:.4g}"


def interval_text(interval: Sequence[float] | None, unit: str) -> str:
    """The ends of an interval in its unit, those of a fraction in percent without the sign; empty for none."""
    if interval is None:
        return ""
    ends = [f"{100 * end:.1f}" if unit == "fraction" else f"{end:.4g}" for end in interval]
    return (" to " if min(interval) < 0 else "-").join(ends)  # beside a minus sign a hyphen cannot be read
