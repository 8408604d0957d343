"""``trust-exp doctor``: versions, devices, data sets, SLURM and W&B on this machine."""

import os
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from rich.table import Table

from trust_exp import __version__
from trust_exp.commands import Commands, add_root
from trust_exp.commands.data import read_choice, state
from trust_exp.commands.list import described
from trust_exp.console import console
from trust_exp.loggers.credentials import has_key
from trust_exp.results.record import PACKAGES


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("doctor", help="versions, devices, data sets, SLURM and W&B on this machine")
    add_root(parser)
    parser.set_defaults(action=lambda given: examine(given.root))


def examine(root: Path) -> None:
    """Print versions and devices, and whether data sets, SLURM and W&B can be used."""
    table = Table(title="trust-exp doctor", title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("trust_exp", __version__)
    table.add_row("python", sys.version.split()[0])
    for package in (*PACKAGES, "wandb", "submitit"):
        table.add_row(package, _version(package))
    table.add_row("devices", _devices())
    for name, _ in described("dataset"):
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
    choice = read_choice(name)
    where = state(choice, root)
    if where.endswith("missing"):
        downloads = all(source.remotes for source in choice.sources)
        return f"not in {root}; {'a run downloads it' if downloads else 'trust-exp data list says how to get it'}"
    return where if not choice.sources or choice.own else f"present in {root}"


def _slurm() -> str:
    if shutil.which("sbatch") is None:
        return "not usable: sbatch is not on the PATH"
    if not os.environ.get("SLURM_CONF") and not Path("/etc/slurm/slurm.conf").exists():
        return "not usable: there is no /etc/slurm/slurm.conf, and SLURM_CONF is not set"
    answer = subprocess.run(["sinfo", "--noheader", "--format=%P %a %D"], capture_output=True, text=True, timeout=20)
    return f"usable: {answer.stdout.strip()}" if answer.returncode == 0 else f"not usable: {answer.stderr.strip()}"


def _wandb() -> str:
    if util.find_spec("wandb") is None:
        return "not usable: wandb is not installed"
    return "usable" if has_key() else "offline only: there is no API key (wandb login)"
