"""``trust-exp table``: a paper's numbers beside those of stored runs."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from trust_exp.commands import Commands, add_runs
from trust_exp.console import console, say
from trust_exp.errors import UserError
from trust_exp.results import experiments
from trust_exp.results.collect import Collection, Found, collect
from trust_exp.results.comparison import fill
from trust_exp.results.composing import check_row_overrides
from trust_exp.results.formats import FORMATS
from trust_exp.results.plots import plot
from trust_exp.runs import write_out

PICTURE = ".png"
ENDINGS = {".md": "md", ".tex": "latex", ".csv": "csv", ".html": "html"}
OWN_OPTIONS = {"size": "--size", "seed": "--seeds", "hydra/launcher": "--launcher"}


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "table",
        help="a paper's numbers beside those of stored runs",
        description="Prints a paper's table, and beside each number what stored runs have measured, or draws its "
        "figure from them; without a name, lists all tables.",
        epilog="Examples: trust-exp table cll/table_4_2 --format md; trust-exp table sat/figure_3_10 --out figure.png",
    )
    parser.add_argument("name", nargs="?", help="the table, e.g. cll/table_4_2")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: from the suffix of --out, else console")
    parser.add_argument("--out", type=Path, help="write the table to this file; .png draws the figure")
    add_size(parser, "show numbers of this size (default: for each row the largest size measured)")
    add_runs(parser)
    add_overrides(parser)
    parser.set_defaults(action=act)


def add_size(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """Add the option that chooses a size."""
    parser.add_argument("--size", default=default, help=text)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the overrides of all rows."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="override a value in all rows; the table then marks its numbers",
    )


def check_overrides(overrides: list[str]) -> None:
    """Raise UserError for an invalid override, or one that has an option of its own."""
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals and not text.startswith("~"):
            raise UserError(f"{text!r} is not key=value")
        if option := OWN_OPTIONS.get(key.lstrip("+")):
            raise UserError(f"{text}: use {option} instead")


def act(given: argparse.Namespace) -> None:
    """Print or write the table, or list all."""
    check_overrides(given.overrides)
    if given.name is None:
        if given.format or given.out or given.size:
            raise UserError("--format, --out and --size need a table, such as cll/table_4_2; trust-exp table lists all")
        list_tables(given.runs)
        return
    experiments.read(given.name)  # fail on a wrong name before reading the results
    check_row_overrides(given.name, given.size or "full", given.overrides)
    results = stored(given.runs).results
    if given.out is not None and given.out.suffix == PICTURE:
        if given.format:
            raise UserError(
                f"--format {given.format} is not a picture format; leave out --format, or give --out another suffix"
            )
        draw(given, results, given.size)
        return
    table = fill(given.name, results, given.size, given.overrides)
    for sentence in table.unreadable:
        say(f"left out: {sentence}")
    format_ = given.format or (ENDINGS.get(given.out.suffix, "console") if given.out else "console")
    text = FORMATS[format_](table)
    if given.out is None:
        print(text, end="")
    else:
        write_out(given.out, text.encode())
        print(f"wrote {given.out}")


def draw(given: argparse.Namespace, results: Sequence[Found], size: str | None) -> None:
    """Draw the figure into ``--out``, and name the rows that are missing from it."""
    figure = plot(given.name, results, size, given.overrides)
    if figure.missing:
        say(f"not in the figure, as not measured: {', '.join(figure.missing)}")
    from trust_exp.viz.curves import draw_curves  # imported here, as matplotlib is slow to import

    with tempfile.TemporaryDirectory() as folder:
        write_out(given.out, draw_curves(Path(folder) / given.out.name, figure).read_bytes())
    print(f"wrote {given.out}")


def stored(runs: Path) -> Collection:
    """All results in a folder of runs, none if there is no such folder; prints what cannot be read."""
    if not runs.is_dir():
        say(f"there is no folder of runs at {runs} yet; see --runs and TRUST_EXP_RUNS")
        return Collection()
    found = collect(runs)
    for sentence in found.unreadable:
        say(f"left out: {sentence}")
    return found


def list_tables(runs: Path) -> None:
    """Print all tables, and how many rows of each are measured."""
    results = stored(runs).results
    grid = Grid(box=None, pad_edge=False)
    for column in ("table", "source", "measured", "cannot run yet", ""):
        grid.add_column(column, no_wrap=column != "")
    for name in experiments.names():
        table = fill(name, results)
        sizes = sorted({row.size for row in table.rows if row.size})
        measured = sum(row.is_measured for row in table.rows)
        waiting = sum("cannot" in row.state for row in table.rows)
        share = f"{measured} of {len(table.rows)} rows" + (f" ({', '.join(sizes)})" if sizes else "")
        grid.add_row(name, table.source, share, str(waiting), table.title)
    console().print(grid)
