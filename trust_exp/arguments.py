"""The words of run.py's command line, before Hydra reads them. Imports no torch."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser

from trust_exp.errors import UserError

NEEDED = ("method", "dataset", "model", "task", "size", "accelerator", "logger")  # groups that a run has one of
OF_TRUST_EXP = {"--root": "paths.data", "--runs": "paths.runs"}  # what run.py calls the options of trust-exp


def arranged(words: Sequence[str]) -> list[str]:
    """The same words with Hydra's options before the overrides, as it reads no override after an option.

    Raises:
        UserError: for an option that Hydra does not have, or a group that no run can do without.
    """
    options = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    first, overrides, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if word[:1] != "-":
            _check_deletion(word)
            overrides.append(word)
            continue
        action = options.get(word.partition("=")[0])
        if action is None:
            raise _no_option(word, rest, options)
        first.append(word)
        if "=" not in word and rest and _takes(action, rest[0]):
            first.append(rest.pop(0))
    return [*first, *overrides]


def _takes(action: Any, word: str) -> bool:
    """Whether an option takes the next word as its value."""
    return action.nargs is None or (action.nargs == "?" and word in (action.choices or ()))


def _check_deletion(word: str) -> None:
    group = word[1:].partition("=")[0].partition("@")[0]
    if word[:1] == "~" and group in NEEDED:
        raise UserError(f"{word} leaves the run without a {group}; choose another one by {group}=<name>")


def _no_option(word: str, rest: Sequence[str], options: Mapping[str, Any]) -> UserError:
    name, equals, value = word.partition("=")
    if not equals:
        value = rest[0] if rest and rest[0][:1] != "-" else "<value>"
    if name in OF_TRUST_EXP:
        return UserError(f"{name} is an option of trust-exp; for run.py write {OF_TRUST_EXP[name]}={value}")
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"values are written without dashes: {name.lstrip('-')}={value}"
    return UserError(f"the option {name} does not exist; {hint}")
