"""``trust-exp``: looks around, prepares data, and shows what runs have found. Imports no torch.

Each module of ``trust_exp.commands`` is one command: ``add(commands)`` describes it, and its action does it.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from trust_exp import __version__, commands
from trust_exp.console import print_any_name
from trust_exp.messages import exit_code_of


def main() -> None:
    """Entry point of the console script."""
    print_any_name()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))


def run(arguments: Sequence[str]) -> None:
    """Carry out one command line."""
    parser = argparse.ArgumentParser(
        prog="trust-exp",
        description="Looks around, prepares data, shows results; experiments are run with run.py.",
        epilog="Example: python run.py method=cll dataset=digits",
    )
    parser.add_argument("--version", action="version", version=f"trust_exp {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name).add(subparsers)
    given, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(given, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes only those that stand together
        given.overrides = [*given.overrides, *rest]
    if given.command is None:
        parser.print_help()
    else:
        given.action(given)


if __name__ == "__main__":
    main()
