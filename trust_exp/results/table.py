"""A result as a table on the console."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trust_exp.recipes import recipe_line


def say(text: str) -> None:
    """A line for the user, beside the progress and not among the results."""
    with suppress(OSError):  # that nobody listens any more (a closed terminal, a pipe) ends no run
        print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """As wide as the terminal; wide enough for every line where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def print_result(result: Mapping[str, Any], folder: Path) -> None:
    """Print a run's numbers, how they were measured, its figures and the path of its result.json."""
    config, here = result["config"], Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    print(f"\n{result['name']}: model {config['model']['name']}, size {config['size']}, seed {config['seed']}")
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
    for title, values in (("derived", derived), ("seconds", result["seconds"])):
        if values:
            print(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    print(f"recipe:  {recipe_line(config)}")
    for figure in result["figures"]:
        print(f"figure:  {folder / figure}")
    print(f"result:  {folder / 'result.json'}", flush=True)


def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Value, interval, n and detail of a row as short texts."""
    value = f"{row['value']:.2%}" if row["unit"] == "fraction" else f"{row['value']:.4g}"
    interval = "" if row["interval"] is None else "-".join(f"{100 * end:.1f}" for end in row["interval"])
    return value, interval, "" if row["n"] is None else str(row["n"]), str(row["detail"].get("how", ""))
