"""``trust-exp table``: a paper's numbers beside those of stored runs."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from trust_exp.commands import Commands, add_runs
from trust_exp.config import FIGURES
from trust_exp.console import console, say
from trust_exp.errors import UserError, listed
from trust_exp.results import experiments
from trust_exp.results.collect import Collection, Found, collect
from trust_exp.results.comparison import Table, fill
from trust_exp.results.composing import check_row_overrides
from trust_exp.results.formats import FORMATS
from trust_exp.results.plots import plot
from trust_exp.runs import check_out, write_out

PICTURES = tuple(f".{name}" for name in FIGURES)
TEXTS = {".md": "md", ".tex": "latex", ".csv": "csv", ".html": "html", ".txt": "console"}
OWN_OPTIONS = {"size": "--size", "seed": "--seeds", "hydra/launcher": "--launcher"}


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "table",
        help="a paper's numbers beside those of stored runs",
        description="Prints a paper's table, and beside each number what stored runs have measured, or draws its "
        "figure from them; without a name, lists all tables.",
        epilog="Examples: trust-exp table cll/table_4_2 --format md; trust-exp table sat/figure_3_10 --out figure.pdf",
    )
    parser.add_argument("name", nargs="?", help="the table, e.g. cll/table_4_2")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: by the ending of --out, else console")
    add_out(parser)
    add_size(parser, "show numbers of this size (default: for each row the largest size measured)")
    add_runs(parser)
    add_overrides(parser)
    parser.set_defaults(action=act)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a file."""
    parser.add_argument(
        "--out",
        type=Path,
        help=f"write the table into this file ({', '.join(TEXTS)}), or draw the figure ({', '.join(PICTURES)})",
    )


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
    check_file(given.out, given.format, experiments.read(given.name))
    check_row_overrides(given.name, given.size or "full", given.overrides)
    results = stored(given.runs).results
    if is_picture(given.out):
        draw(given, results)
        return
    table = fill(given.name, results, given.size, given.overrides)
    for sentence in table.unreadable:
        say(f"left out: {sentence}")
    if given.out is None:
        print(FORMATS[given.format or "console"](table), end="")
    else:
        write_table(given.out, given.format, table)


def is_picture(out: Path | None) -> bool:
    """Whether a file is to hold the figure."""
    return out is not None and out.suffix.lower() in PICTURES


def check_file(out: Path | None, format_: str | None, experiment: experiments.Experiment) -> None:
    """Raise UserError, before anything is run, if ``--out`` could not be written as its ending says."""
    if out is None:
        return
    if is_picture(out) and format_:
        raise UserError(f"--format {format_} is not a picture format; leave out --format, or give --out another ending")
    check_out(out, {out.suffix.lower()} if format_ else (*TEXTS, *PICTURES))
    if is_picture(out) and experiment.figure is None:
        raise UserError(f"{experiment.name} is a table and has no figure; --out may end in {listed(TEXTS)}")


def write_table(out: Path, format_: str | None, table: Table) -> None:
    """Write the table into ``--out``, in the format that is given or the one of the file's ending."""
    write_out(out, FORMATS[format_ or TEXTS[out.suffix.lower()]](table).encode())
    print(f"wrote {out}")


def draw(given: argparse.Namespace, results: Sequence[Found]) -> None:
    """Draw the figure into ``--out``, and name the rows that are missing from it."""
    figure = plot(given.name, results, given.size, given.overrides)
    if figure.missing:
        say(f"not in the figure, as not measured: {', '.join(figure.missing)}")
    from trust_exp.viz.curves import draw_curves  # imported here, as matplotlib is slow to import

    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_curves(Path(folder) / f"figure{given.out.suffix.lower()}", figure)
        write_out(given.out, drawn.read_bytes())
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
