"""``trust-exp report``: one HTML page of many runs."""

import argparse
import platform
import sys
from pathlib import Path

from trust_exp import __version__
from trust_exp.commands import Commands, add_runs
from trust_exp.errors import UserError, check_range
from trust_exp.results.collect import collect
from trust_exp.results.record import now
from trust_exp.results.report import About, write_report
from trust_exp.runs import check_out


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("report", help="one self-contained HTML page of runs, with tables, curves and figures")
    parser.add_argument(
        "selection", nargs="*", help="method=cll,gloro, status=done, run ids or patterns such as 'cll-*' (default: all)"
    )
    add_runs(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the .html file to write (default: report.html)"
    )
    parser.add_argument(
        "--figures-mb",
        type=float,
        default=30.0,
        metavar="MB",
        help="space for all figures, shared by the runs (default: 30)",
    )
    parser.set_defaults(action=report)


def report(given: argparse.Namespace) -> None:
    """Write the page; print what it contains and what could not be read.

    Raises:
        UserError: if there is no run, or the file cannot be written.
    """
    check_range("--figures-mb", given.figures_mb, least=0)
    if given.out.is_dir():
        raise UserError(f"--out {given.out} is a folder; give a file, such as {given.out / 'report.html'}")
    check_out(given.out, (".html", ".htm"))
    found = collect(given.runs, given.selection)
    about = About(str(given.runs), given.selection, now(), platform.node(), __version__)
    if not found.results:
        report_unreadable(found.unreadable)
        raise UserError(f"there are no runs in {given.runs}; python run.py method=cll dataset=digits makes one")
    written = write_report(found, about, given.out, given.figures_mb)
    report_unreadable(written.unreadable)
    others = "".join(f", {n} {status}" for status, n in sorted(written.statuses.items()) if status != "done")
    n = sum(written.statuses.values())
    print(f"report:  {given.out} ({n} run{'s' * (n != 1)}{others}, {written.size / 1e6:.1f} MB)")


def report_unreadable(sentences: list[str]) -> None:
    """Print what could not be read."""
    for sentence in sentences:
        print(f"skipped: {sentence}", file=sys.stderr)
