"""``trust-exp``: looks around, prepares data, and shows what runs have found. Imports no torch.

Each module of ``trust_exp.commands`` is one command: ``add(commands)`` describes it, and its action does it.
"""

import argparse
import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from trust_exp import __version__, commands
from trust_exp.console import print_anywhere
from trust_exp.errors import UserError, unknown
from trust_exp.messages import exit_code_of

CHOICE = re.compile(r"(?:argument (.+): )?invalid choice: '(.*)' \(choose from (.*)\)")
OF_RUN = {"paths.data": "root", "paths.runs": "runs"}  # values of run.py, and the options that trust-exp has for them


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the nearest name that is right; so do the parsers of its commands."""

    def error(self, message: str) -> NoReturn:
        if found := CHOICE.fullmatch(message):
            what, given, names = found.groups()
            kind = what if what and "|" not in what else "command"
            raise unknown(f"the {kind}", given, (name.strip(" '") for name in names.split(",")))
        raise UserError(f"{message}; {self.prog} --help shows how it is used")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                name = word.partition("=")[0]
                known = re.findall(r"(?<![\w-])--?[a-z][\w-]*", self.format_help())
                raise unknown("the option", name, set(known))
        return given, rest


def main() -> None:
    """Entry point of the console script."""
    print_anywhere()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))


def run(arguments: Sequence[str]) -> None:
    """Carry out one command line."""
    parser = Parser(
        prog="trust-exp",
        description="Looks around, prepares data, shows results; experiments are run with run.py.",
        epilog="Example: python run.py method=cll dataset=digits",
    )
    parser.add_argument("--version", action="version", version=f"trust_exp {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name).add(subparsers)
    given, rest = parser.parse_known_args(arguments)
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key in OF_RUN and hasattr(given, OF_RUN[key]):
            raise UserError(f"{word} is for run.py; for trust-exp {given.command} write --{OF_RUN[key]} {value}")
    if rest and not hasattr(given, "overrides"):
        raise UserError(f"{rest[0]} is one word too many; trust-exp {given.command} --help shows how it is used")
    if rest:  # argparse takes only those that stand together
        given.overrides = [*given.overrides, *rest]
    if given.command is None:
        parser.print_help()
    else:
        given.action(given)


if __name__ == "__main__":
    main()
