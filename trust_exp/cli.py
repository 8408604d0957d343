"""``trust-exp``: what there is, what this machine can do, and data that are already on disk. Imports no torch."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path

from rich.table import Table

from trust_exp import __version__
from trust_exp.config import CONF
from trust_exp.data import sources, store
from trust_exp.errors import UserError, unknown
from trust_exp.messages import exit_code_of
from trust_exp.results.record import PACKAGES
from trust_exp.results.table import console

GROUPS = ("method", "dataset", "model", "eval")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))


def run(arguments: Sequence[str]) -> None:
    """Carry out one command line."""
    parser = argparse.ArgumentParser(
        prog="trust-exp",
        description="Looks around and prepares; experiments are run with run.py.",
        epilog="Example: python run.py method=cll dataset=digits",
    )
    parser.add_argument("--version", action="version", version=f"trust_exp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    listing = commands.add_parser("list", help="methods, data sets, models, evals, and which pairs have recipes")
    listing.add_argument("group", nargs="?", help=f"only one of {', '.join((*GROUPS, 'recipe'))}")
    listing.set_defaults(action=lambda given: list_choices(given.group))

    doctor = commands.add_parser("doctor", help="versions, devices, data sets, SLURM and W&B on this machine")
    _add_root(doctor)
    doctor.set_defaults(action=lambda given: examine(given.root))

    data = commands.add_parser("data", help="import and verify data sets").add_subparsers(
        dest="what", required=True, metavar="import|verify"
    )
    importing = data.add_parser("import", help="check files that are on disk and prepare them")
    importing.add_argument("name", help="the data set, e.g. mnist")
    importing.add_argument("folder", type=Path, help="where its files are")
    _add_root(importing)
    importing.set_defaults(action=lambda given: import_data(given.name, given.folder, given.root))
    verifying = data.add_parser("verify", help="compare a prepared set with its checksums")
    verifying.add_argument("name", help="the data set, e.g. mnist")
    _add_root(verifying)
    verifying.set_defaults(action=lambda given: verify_data(given.name, given.root))

    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
    else:
        given.action(given)


def _add_root(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("TRUST_EXP_DATA", "data"))
    parser.add_argument("--root", type=Path, default=default, help="where data live (default: TRUST_EXP_DATA or data/)")


def choices(group: str) -> Iterator[tuple[str, str]]:
    """Names in a folder of conf/, each with the first comment of its file."""
    if not (CONF / group).is_dir():
        raise UserError(f"{CONF} is missing; install trust_exp from its checkout: pip install -e .")
    for path in sorted((CONF / group).glob("*.yaml")):
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        yield path.stem, next((comment for comment in comments if not comment.startswith("@package")), "")


def recipes() -> Iterator[tuple[str, str]]:
    """Pairs method/dataset that have a recipe, with where it comes from."""
    for path in sorted((CONF / "recipe").glob("*/*.yaml")):
        lines = path.read_text().splitlines()
        known = (CONF / "dataset" / path.name).exists()
        source = next((line.partition(":")[2].strip() for line in lines if line.startswith("recipe:")), "")
        yield f"{path.parent.name}/{path.stem}", source if known else f"{source} (its data set is to come)"


def list_choices(only: str | None) -> None:
    """Print what can be chosen."""
    if only is not None and only not in (*GROUPS, "recipe"):
        raise unknown("the group", only, (*GROUPS, "recipe"))
    for group in (*GROUPS, "recipe") if only is None else (only,):
        table = Table(
            title=f"{group}=" if group != "recipe" else "recipes", title_justify="left", show_header=False, box=None
        )
        table.add_column(no_wrap=True)
        table.add_column()
        for row in recipes() if group == "recipe" else choices(group):
            table.add_row(*row)
        console().print(table)


def examine(root: Path) -> None:
    """Print what this machine has and what works on it."""
    table = Table(title="trust-exp doctor", title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("trust_exp", __version__)
    table.add_row("python", sys.version.split()[0])
    for package in (*PACKAGES, "wandb", "submitit"):
        table.add_row(package, _version(package))
    table.add_row("devices", _devices())
    for name, _ in choices("dataset"):
        table.add_row(f"dataset={name}", _presence(name, root))
    table.add_row("SLURM", _slurm())
    table.add_row("W&B", _wandb())
    console().print(table)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"cpu ({os.cpu_count()} cores, torch uses {torch.get_num_threads()})", *names])


def _presence(name: str, root: Path) -> str:
    if name in sources.EMBEDDED:
        return "embedded"
    return f"present in {root}" if sources.is_present(name, root) else f"not in {root}; a run downloads it, if it can"


def _slurm() -> str:
    if shutil.which("sbatch") is None:
        return "not usable: sbatch is not on the PATH"
    if not os.environ.get("SLURM_CONF") and not Path("/etc/slurm/slurm.conf").exists():
        return "not usable: there is no /etc/slurm/slurm.conf, and SLURM_CONF is not set"
    told = subprocess.run(["sinfo", "--noheader", "--format=%P %a %D"], capture_output=True, text=True, timeout=20)
    return f"usable: {told.stdout.strip()}" if told.returncode == 0 else f"not usable: {told.stderr.strip()}"


def _wandb() -> str:
    if util.find_spec("wandb") is None:
        return "not usable: wandb is not installed"
    netrc = Path.home() / ".netrc"
    key = os.environ.get("WANDB_API_KEY") or (netrc.exists() and "wandb" in netrc.read_text())
    return "usable" if key else "offline only: there is no API key (wandb login)"


def import_data(name: str, folder: Path, root: Path) -> None:
    """Prepare a data set from the files under ``folder``."""
    known = [choice for choice, _ in choices("dataset")]
    if name not in known:
        raise unknown("the data set", name, known)
    prepared = sources.import_dataset(name, folder, root)
    print(f"imported {name} into {prepared}")
    if not store.read_manifest(prepared)["source"].get("verified"):
        print(f"warning: these are not the known files of {name}; their checksums differ", file=sys.stderr)


def verify_data(name: str, root: Path) -> None:
    """Compare every file of a prepared set with its checksum."""
    store.verify(root, name)
    print(f"{name} in {root} is whole")


if __name__ == "__main__":
    main()
