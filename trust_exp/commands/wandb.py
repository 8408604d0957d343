"""``trust-exp wandb``: uploads W&B runs that were written offline, and builds their dashboard."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from trust_exp.commands import Commands, add_runs
from trust_exp.console import say
from trust_exp.errors import UserError
from trust_exp.loggers.credentials import has_key, server
from trust_exp.loggers.sync import parts_to_upload, upload
from trust_exp.messages import RunFailed
from trust_exp.results.collect import Collection, Found, collect
from trust_exp.results.dashboard import default_entity, publish, report_of, require, specification
from trust_exp.runs import Run, check_out, is_locked, write_out

SELECTION = "run ids, names, patterns (cll-*), or key=value[,value] (method=cll); default: all runs"


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("wandb", help="uploads offline W&B runs; builds a dashboard of results")
    kinds = parser.add_subparsers(dest="kind", metavar="sync|dashboard", required=True)
    add_sync(kinds)
    add_dashboard(kinds)


def add_sync(kinds: Commands) -> None:
    """Describe ``trust-exp wandb sync``."""
    parser = kinds.add_parser("sync", help="upload offline runs in the order in which they started")
    add_selection(parser)
    parser.add_argument("--timeout", type=float, default=300, help="time limit per run in seconds (default: 300)")
    parser.set_defaults(action=lambda given: sync(given.selection, given.runs, given.timeout))


def add_dashboard(kinds: Commands) -> None:
    """Describe ``trust-exp wandb dashboard``."""
    parser = kinds.add_parser("dashboard", help="make a W&B report of results: tables, bars, scatter, curves")
    add_selection(parser)
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="W&B user or team (default: yours)")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "trust_exp"), help="default: trust_exp")
    parser.add_argument("--dry-run", action="store_true", help="print the specification as JSON, send nothing")
    parser.add_argument("--out", type=Path, help="with --dry-run: write it to this .json file")
    parser.set_defaults(action=dashboard)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose results."""
    parser.add_argument("selection", nargs="*", help=SELECTION)
    add_runs(parser)


def sync(selection: Sequence[str], runs: Path, seconds: float) -> None:
    """Upload the selected runs that were written offline.

    Raises:
        UserError: if there is no API key.
        RunFailed: if a run could not be uploaded, after trying the others.
    """
    waiting = {result.folder: parts for result in read(selection, runs) if (parts := parts_to_upload(result.folder))}
    for folder in [folder for folder in waiting if is_locked(Run(folder))]:
        say(f"{folder.name}: is running; skipped")
        del waiting[folder]
    if not waiting:
        say("there is nothing to upload")
        return
    if not has_key():
        raise UserError(f"there is no API key for {server()}: wandb login stores one, or set WANDB_API_KEY")
    failed = 0
    for folder, parts in waiting.items():
        say(f"{folder.name}: uploading {len(parts)} {'part' if len(parts) == 1 else 'parts'}")
        wrong = upload(parts, seconds)
        if wrong is not None:
            say(f"{folder.name}: failed: {wrong}")
            failed += 1
    if failed:
        raise RunFailed(f"{failed} of {len(waiting)} runs could not be uploaded; the same command tries them again")
    say(f"uploaded {len(waiting)} {'run' if len(waiting) == 1 else 'runs'} to {server()}")


def dashboard(given: argparse.Namespace) -> None:
    """Build the report of the selected results; send it, or show what would be sent.

    Raises:
        UserError: if wandb-workspaces is missing, no run is done, or there is no API key.
        RunFailed: if W&B rejects it.
    """
    if given.out and not given.dry_run:
        raise UserError("--out goes with --dry-run: it writes the specification instead of sending it")
    if given.out:
        check_out(given.out, (".json",))
    require()
    results = read(given.selection, given.runs)
    if given.dry_run:
        show(json.dumps(specification(report_of(results, given.entity or "", given.project)), indent=1), given.out)
        say_what_is_missing(results)
        return
    if not has_key():
        raise UserError(f"there is no API key for {server()}: wandb login stores one, or set WANDB_API_KEY")
    try:
        url = publish(report_of(results, given.entity or default_entity(), given.project))
    except UserError:
        raise
    except Exception as error:
        raise RunFailed(f"W&B did not take the dashboard: {' '.join(str(error).split())[:300]}") from error
    say(f"dashboard: {url}")
    say_what_is_missing(results)


def say_what_is_missing(results: Sequence[Found]) -> None:
    """Name the runs of a dashboard of which W&B has nothing, or not all."""
    done = [result for result in results if result.values["status"] == "done"]
    never = [result.folder.name for result in done if not had_logger(result)]
    waiting = [result.folder.name for result in done if parts_to_upload(result.folder)]
    for what, names in (
        ("nothing of runs that never had logger=wandb", never),
        ("not all of runs that wait for trust-exp wandb sync", waiting),
    ):
        if names:
            say(f"W&B has {what} ({len(names)} of {len(done)}): {', '.join(names)}")


def had_logger(result: Found) -> bool:
    """Whether a training or a later eval of the run had ``logger=wandb``, which makes the folder ``wandb`` at once."""
    trained = result.config.get("logger") or {}
    return trained.get("name") == "wandb" or (result.folder / "wandb").is_dir()


def show(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    if out is None:
        print(text)
    else:
        write_out(out, f"{text}\n".encode())
        say(f"wrote {out}")


def read(selection: Sequence[str], runs: Path) -> list[Found]:
    """The selected results; what cannot be read is said."""
    found: Collection = collect(runs, selection)
    for sentence in found.unreadable:
        say(sentence)
    return found.results
