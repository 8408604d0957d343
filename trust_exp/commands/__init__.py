"""The commands of ``trust-exp``, one module each: ``add(commands)`` adds its parser and sets ``action``."""

import argparse
import os
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add the option for the data folder."""
    default = Path(os.environ.get("TRUST_EXP_DATA", "data"))
    parser.add_argument(
        "--root", type=Path, default=default, help="folder of the data (default: TRUST_EXP_DATA or data/)"
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of runs."""
    default = Path(os.environ.get("TRUST_EXP_RUNS", "multirun"))
    parser.add_argument(
        "--runs", type=Path, default=default, help="folder of the runs (default: TRUST_EXP_RUNS or multirun/)"
    )
