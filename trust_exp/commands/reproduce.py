"""``trust-exp reproduce``: run the missing cells of a paper's table as one sweep, and print the table."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trust_exp.commands import Commands, add_runs
from trust_exp.commands.table import (
    add_out,
    add_overrides,
    add_size,
    check_file,
    check_overrides,
    draw,
    is_picture,
    stored,
    write_table,
)
from trust_exp.compose import Composer, composing
from trust_exp.console import say
from trust_exp.errors import UserError, check_choice
from trust_exp.identity import cell_id
from trust_exp.results import experiments
from trust_exp.results.collect import collect
from trust_exp.results.comparison import fill, is_whole, place
from trust_exp.results.composing import check_row_overrides, check_size, compose_row
from trust_exp.results.formats import to_console
from trust_exp.schema import CONF, ROOT
from trust_exp.signals import handing_on


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "reproduce",
        help="run the missing cells of a paper's table, and print the table",
        description="Runs the cells of a paper's table that no stored run has measured, as one sweep, and prints "
        "paper, measured and difference; --out also writes the table or draws the figure.",
        epilog="Example: trust-exp reproduce cll/figure_4_4 --size smoke",
    )
    parser.add_argument("name", help="the table, e.g. cll/table_4_2; trust-exp table lists them")
    add_size(parser, "smoke, small or full (default: full)", "full")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, counted from 0 (default: 1)")
    add_out(parser)
    parser.add_argument("--launcher", help="process or slurm (default: as in conf/config.yaml)")
    add_runs(parser)
    add_overrides(parser)
    parser.set_defaults(action=act)


def act(given: argparse.Namespace) -> None:
    """Run the missing cells and print the table; exits with the code of the sweep."""
    check_overrides(given.overrides)
    check_size(given.size)
    if given.seeds < 1:
        raise UserError(f"--seeds must be at least 1; got {given.seeds}")
    if given.launcher is not None:
        check_choice("--launcher", given.launcher, [path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml")])
    experiment, seeds = experiments.read(given.name), range(given.seeds)
    check_file(given.out, None, experiment)
    check_row_overrides(given.name, given.size, given.overrides)
    cells = runnable(experiment, given.size, given.overrides)
    missing = lacking(cells, given.runs, seeds)
    code = 0
    if missing:
        rows, lacked = list(dict.fromkeys(row for row, _ in missing)), sorted({seed for _, seed in missing})
        code = sweep(command(given, experiment.table, rows, lacked), given.runs)
    elif cells:
        say(f"all {len(cells) * len(seeds)} runs of {given.name} at size {given.size} are done")
    results = stored(given.runs).results
    table = fill(given.name, results, given.size, given.overrides)
    print(to_console(table), end="", flush=True)
    if is_picture(given.out):
        draw(given, results)
    elif given.out is not None:
        write_table(given.out, None, table)
    if not cells:
        raise UserError(f"no row of {given.name} can run yet; the table says why")
    sys.exit(code)


def runnable(
    experiment: experiments.Experiment, size: str, overrides: Sequence[str]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The rows that can run, with their identity and configuration; prints why the others cannot.

    If two rows are the same experiment (a paper prints it twice), only the first is returned.
    """
    rows: dict[str, tuple[str, Mapping[str, Any]]] = {}
    seen: set[str] = set()
    composer = Composer()
    with composing():
        for row in experiment.rows:
            try:
                checked = compose_row(row, size, overrides, composer)
            except UserError as error:
                say(f"{row.name} cannot run yet: {error}")
                continue
            if (cell := cell_id(checked)) not in seen:
                seen.add(cell)
                rows[row.name] = cell, checked
    return rows


def lacking(
    cells: Mapping[str, tuple[str, Mapping[str, Any]]], runs: Path, seeds: Sequence[int]
) -> list[tuple[str, int]]:
    """Row and seed of each run that is not done or lacks one of the row's evals."""
    if not runs.is_dir():
        return [(row, seed) for row in cells for seed in seeds]
    done = place(collect(runs).results).cells
    missing = []
    for row, (cell, checked) in cells.items():
        for seed in seeds:
            found = done.get(cell, {}).get(seed)
            if found is None or not is_whole(found, checked):
                missing.append((row, seed))
    return missing


def command(given: argparse.Namespace, table: str, rows: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The command of the sweep over rows and seeds; runs that are done skip themselves."""
    words = [sys.executable, str(ROOT / "run.py"), "-m", f"+experiments/{table}={','.join(rows)}"]
    words += [f"seed={','.join(map(str, seeds))}", f"size={given.size}"]
    words += [f"hydra/launcher={given.launcher}"] if given.launcher else []
    return [*words, *given.overrides]


def sweep(words: Sequence[str], runs: Path) -> int:
    """Run the command in its own process group and return its exit code; signals are passed on to it."""
    place = {"TRUST_EXP_RUNS": str(runs)}  # not an override, as a path may contain characters of Hydra's grammar
    say(shlex.join([*(f"{key}={value}" for key, value in place.items()), *words]))
    with handing_on() as start:
        code = start(words, process_group=0, env={**os.environ, **place}).wait()
    return code if code >= 0 else 128 - code
