"""Errors in one sentence, and exit codes: 0 done, 1 a run failed, 2 a mistake of the user, 130 interrupted."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trust_exp import choices
from trust_exp.errors import Interrupted, UserError, unknown
from trust_exp.schema import CONF


class RunFailed(Exception):
    """A run raised; its folder says what and where."""


def exit_code_of(action: Callable[[], Any], *, speak: bool = True) -> int:
    """Run ``action``, say in one sentence what went wrong (if it is this process' part to), return the exit code."""
    try:
        action()
    except (KeyboardInterrupt, Interrupted):
        return 130
    except RunFailed as error:
        _say(str(error), speak)
        return 1
    except BaseException as error:
        sentence = sentence_for(error)
        if sentence is None:
            raise
        _say(sentence, speak)
        return 2
    return 0


def _say(sentence: str, speak: bool) -> None:
    if speak:
        with suppress(OSError):  # nobody listens
            print(f"error: {sentence}", file=sys.stderr, flush=True)


def sentence_for(error: BaseException) -> str | None:
    """The user's mistake behind ``error`` in one sentence; None if it is not one."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        if isinstance(cause, MissingConfigException):
            return _missing_choice(cause)
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause)
    for cause in chain:
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _unknown_key(cause)
    if str(error).startswith("Config group override must be"):
        return "a group takes a name or a list of names, as in eval=[clean,certify]; got null"
    if isinstance(error, HydraException | OmegaConfBaseException) or str(error).startswith("Only one of --run"):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror} (runs are written to paths.runs, data to paths.data)"
    return None


def _unreadable(error: OverrideParseException) -> str:
    reason = str(error).splitlines()[0]
    if "Lexer" not in reason:
        return f"{error.override!r} is not key=value: {reason}"
    key, _, value = error.override.partition("=")
    return f"{error.override!r} has characters that need quotes of their own: '{key}=\"{value}\"'"


def causes(error: BaseException | None) -> Any:
    """The error, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _missing_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    known = choices.names(group) if group and (CONF / group).is_dir() else []  # Hydra has none for a name in a list
    options = [option for option in error.options or known if option not in ("for", "any")]
    if not group or not options:
        return " ".join(str(error).split())
    return str(unknown(group, name, options))


def _unknown_key(error: OmegaConfBaseException) -> str:
    key = error.full_key or ""
    parent = error.parent_node
    if re.search("not in struct|is not a|does not exist", str(error)) and OmegaConf.is_dict(parent):
        prefix, _, own = key.rpartition(".")
        if not parent and "." in prefix:  # a part that is null unless it is asked for
            return f"{prefix} is not in use, so {key} means nothing; '{prefix}={{{own}: ...}}' makes use of it"
        if prefix == "eval":
            return _no_eval(own)
        names = [f"{prefix}.{name}".lstrip(".") for name in parent if not str(name).startswith("_")]
        return str(unknown("the key", key, names))
    return f"{key}: {str(error).splitlines()[0]}"


def _no_eval(name: str) -> str:
    """Why an eval has no options to set."""
    known = [name for name in choices.names("eval") if name != "none"]
    if name in known:
        return f"eval={name} is not chosen, so it has no options; add it to eval=[...]"
    return str(unknown("eval", name, known))
