"""Overrides as text, read with Hydra's own grammar: their keys, overrides in brackets, and what needs quotes.

Imports no torch.
"""

from collections.abc import Container
from functools import cache
from typing import Any, NamedTuple

from antlr4 import InputStream
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.grammar.gen.OverrideLexer import OverrideLexer

from trust_exp.errors import UserError

OPENING = (OverrideLexer.POPEN, OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN)
CLOSING = (OverrideLexer.PCLOSE, OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE)


class Key(NamedTuple):
    """The key of an override: ``+dataset@eval.clean.data=svhn`` has the name ``dataset`` and a package."""

    name: str  # dotted; a group within a group has slashes
    package: str | None = None

    @property
    def part(self) -> str:
        """The top-level part of the configuration that the override changes."""
        where = self.package or self.name
        return where.split(".")[0].split("/")[0]


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def key_of(override: str) -> Key:
    """The key of ``key=value``, ``+key=value``, ``++key=value``, ``~key`` or ``~key=value``; the value is not read.

    Raises:
        OverrideParseException: if it is none of these.
    """
    key, equals, _ = override.partition("=")
    try:
        return _parse_key(key + equals)
    except HydraException as error:
        raise OverrideParseException(override, str(error)) from error


@cache
def _parse_key(text: str) -> Key:
    parsed = _parser().parse_override(text)
    return Key(parsed.key_or_group, parsed.package)


def split(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes; joined by commas the parts are ``text`` again."""
    parts, begin, depth = [], 0, 0
    for token in _tokens(text):
        if token.type in OPENING:
            depth += 1
        elif token.type in CLOSING:
            depth = max(0, depth - 1)
        elif token.type == OverrideLexer.COMMA and not depth:
            comma = text.index(",", token.start)
            parts.append(text[begin:comma])
            begin = comma + 1
    return [*parts, text[begin:]]


def _tokens(value: str) -> list[Any]:
    lexer = OverrideLexer(InputStream(value))
    lexer.removeErrorListeners()  # it skips characters that it does not know; Hydra reports them when it composes
    lexer.mode(OverrideLexer.VALUE_MODE)
    return list(lexer.getAllTokens())


def _is_one(value: str, kind: int) -> bool:
    """Whether a value is a single token of this kind."""
    tokens = _tokens(value)
    return len(tokens) == 1 and tokens[0].type == kind and tokens[0].text == value


def overrides_in(text: str) -> list[str]:
    """The overrides in a text such as ``[method=sat,dataset=cifar100]``; each may be quoted.

    Raises:
        UserError: if there are none, the brackets do not match, or a part is not ``key=value`` or ``~key``.
    """
    inner = text.strip()[1:-1] if text.strip().endswith("]") else ""
    found = [_unquoted(part.strip()) for part in split(inner) if part.strip()]
    if not found:
        raise UserError(
            f"{text} describes no run; write overrides in brackets, such as '[method=standard,dataset=digits]'"
        )
    for override in found:
        if not _is_override(override):
            raise UserError(f"{override!r} is not key=value")
    return found


def _unquoted(text: str) -> str:
    if not _is_one(text, OverrideLexer.QUOTED_VALUE):
        return text
    return str(_parser().parse_rule(text, "primitive").text)


def _is_override(text: str) -> bool:
    try:
        return bool(key_of(text).name)
    except OverrideParseException:
        return False


def quote_runs(argument: str, references: Container[str]) -> str:
    """Quote the values that Hydra would misread: overrides in brackets, and run ids that look like floats.

    Args:
        argument: a command-line override; of a sweep over several values each is quoted by itself.
        references: last names of the keys whose values name runs; all other keys are left alone.
    """
    key, equals, value = argument.partition("=")
    if not equals or not _is_override(key + equals) or key_of(argument).name.rpartition(".")[2] not in references:
        return argument
    return key + equals + ",".join(_quote(part) for part in split(value))


def _quote(value: str) -> str:
    if value.lstrip().startswith("[") or _is_one(value, OverrideLexer.FLOAT):
        return in_quotes(value)
    return value


def in_quotes(text: str) -> str:
    """A text as the value of an override that Hydra reads as this text, whatever stands in it."""
    return str(QuotedString(text, Quote.single).with_quotes())
