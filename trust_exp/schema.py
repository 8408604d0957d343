"""Schemas: how the fields of a configuration's dataclasses are marked, found, and converted from plain values.

Numbers such as ``8/255`` are parsed here; wrong keys, types and values are refused in one sentence. Imports no torch.
"""

import importlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trust_exp.errors import UserError, unknown

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def outside_identity(default: Any) -> Any:
    """Dataclass field that is not part of a run's identity: it changes where or how fast, not what comes out."""
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={"identity": False})


def added_later(default: Any) -> Any:
    """Dataclass field that came later: at its default it is left out of the identity, so earlier runs keep their id."""
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={"added_later": True})


def moved(target: str, before: str) -> Any:
    """Dataclass field with the path of a class that lay elsewhere before: ids go on with the path that it had."""
    return field(default=target, metadata={"before": {target: before}})


def reference(*, came_late: bool = False, why_not: Callable[..., str] | None = None) -> Any:
    """Dataclass field that names another run or a file; see ``trust_exp.references``. None unless given.

    Args:
        came_late: as ``added_later`` says.
        why_not: gives the reason why the run that is named is of no use here, or an empty text. Its arguments: the node
            with the field, and the checked configurations of the run that is named and of the run that names it.
    """
    return field(default=None, metadata={"reference": True, "added_later": came_late, "why_not": why_not})


# --- found, not listed -----------------------------------------------------------------------------------------------


def schemas() -> Iterator[type]:
    """Every dataclass of a ``config.py``: the package's own, those of its parts, and those of each method and eval."""
    files = sorted(path for depth in ("", "*/", "*/*/") for path in (ROOT / "trust_exp").glob(f"{depth}config.py"))
    for path in files:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for value in vars(importlib.import_module(module)).values():
            if is_dataclass(value) and isinstance(value, type) and value.__module__ == module:
                yield value


def find_schema(reference: str) -> type:
    """The dataclass behind ``module:Name``; one that has moved since a run was stored is found by its name."""
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError):  # the last two for names that no module can have
        found = None
    return found if isinstance(found, type) and is_dataclass(found) else schema_called(name)


def schema_called(name: str) -> type:
    """The dataclass of that name.

    Raises:
        UserError: if there is none.
    """
    found = next((schema for schema in schemas() if schema.__name__ == name), None)
    if found is None:
        raise UserError(f"there is no schema {name!r}: the method, model, data set or eval is gone")
    return found


def is_node_of(value: Any, schema: type) -> bool:
    """Whether a value of a configuration is a node of a schema, or of one that extends it."""
    return isinstance(value, Mapping) and "_schema_" in value and issubclass(find_schema(value["_schema_"]), schema)


@cache
def type_hints(schema: type) -> dict[str, Any]:
    """The types of a dataclass' fields; a table asks for those of thousands of configurations."""
    return typing.get_type_hints(schema)


def defaults(schema: type) -> dict[str, Any]:
    """The default values of a dataclass as a plain dictionary; what has none is ``???``."""
    values: dict[str, Any] = {}
    for entry in fields(schema):
        kind = typing.get_type_hints(schema)[entry.name]
        if is_dataclass(kind):
            values[entry.name] = defaults(typing.cast(type, kind))
        elif entry.default_factory is not NO_DEFAULT:
            values[entry.name] = entry.default_factory()
        else:
            values[entry.name] = MISSING if entry.default is NO_DEFAULT else entry.default
    return values


# --- from plain values to checked ones -------------------------------------------------------------------------------


def check_options(node: Any, path: str) -> dict[str, Any]:
    """The plain, checked values of a node that names its schema.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    return {key: value for key, value in check_node(node, path).items() if not key.startswith("_")}


def to_plain(config: DictConfig, key: str) -> Any:
    """One top-level part of a configuration with its interpolations resolved, as plain Python values."""
    if OmegaConf.is_missing(config, key):
        return MISSING
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_node(node: Any, path: str, reference: str | None = None) -> dict[str, Any]:
    """The checked values of a node, with its schema: that of ``reference``, else the one that the node names.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{path} must be chosen: {path}=<name>; trust-exp list shows the names")
    reference = reference or str(node.get("_schema_") or "")
    if not reference:
        raise UserError(f"conf/{path} names no schema: its defaults list needs '- /schema/<Name>@_here_'")
    values = {key: value for key, value in node.items() if key != "_schema_"}
    checked = asdict(_convert(values, find_schema(reference), path))
    return checked if not path else {"_schema_": reference, **checked}


def _convert(value: Any, wanted: Any, path: str) -> Any:
    """``value`` as the type ``wanted``: a dataclass, an optional, a list, a plain type or Any."""
    if wanted is Any:
        nested = "." in path and isinstance(value, Mapping) and "_schema_" in value  # a data set or model of its own
        return check_node(value, path) if nested else value
    if isinstance(value, str) and value == MISSING:
        raise UserError(f"{path} must be given")
    if isinstance(wanted, types.UnionType):
        return None if value is None else _convert(value, typing.get_args(wanted)[0], path)
    if is_dataclass(wanted):
        return _convert_dataclass(value, typing.cast(type, wanted), path)
    if typing.get_origin(wanted) is list:
        if isinstance(value, str) and typing.get_args(wanted)[0] is str:
            value = [value]  # one name is a list of one
        if not isinstance(value, list | tuple):
            raise UserError(f"{path} must be a list such as [1,2]; got {value!r}")
        return [_convert(item, typing.get_args(wanted)[0], f"{path}[{i}]") for i, item in enumerate(value)]
    if typing.get_origin(wanted) is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{path} must be a group of values; got {value!r}")
        return {str(key): _convert(item, typing.get_args(wanted)[1], f"{path}.{key}") for key, item in value.items()}
    return _convert_scalar(value, wanted, path)


def _convert_dataclass(value: Any, schema: type, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{path} must be a group of values; got {value!r}")
    hints = type_hints(schema)
    for key in value:
        if key not in hints:
            raise unknown("the key", f"{path}.{key}".lstrip("."), (f"{path}.{name}".lstrip(".") for name in hints))
    references = {entry.name for entry in fields(schema) if entry.metadata.get("reference")}
    given = {
        key: _convert(_written(item) if key in references else item, hints[key], f"{path}.{key}".lstrip("."))
        for key, item in value.items()
    }
    for entry in fields(schema):
        if entry.name not in given and entry.default == MISSING:
            raise UserError(f"{path}.{entry.name} must be given")
    return schema(**given)


def _written(value: Any) -> Any:
    """A reference as a text: a file may write the overrides that describe a run as a list."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else value


FRACTION = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*/\s*([\d.]+(?:[eE][-+]?\d+)?)\s*")


def _convert_scalar(value: Any, wanted: type, path: str) -> Any:
    if wanted is float and isinstance(value, str) and (match := FRACTION.fullmatch(value)):
        over, under = float(match[1]), float(match[2])
        if under == 0:
            raise UserError(f"{path} divides by zero; got {value!r}")
        return over / under
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number of more than 300 digits
            return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = {float: "a number (8/255 is one)", int: "a whole number", bool: "true or false", str: "a text"}
    raise UserError(f"{path} must be {names.get(wanted, wanted.__name__)}; got {value!r}")


def number_of(value: Any) -> float | None:
    """A value of a configuration as a number, 8/255 too; None if it is none."""
    try:
        return typing.cast(float, _convert_scalar(value, float, ""))
    except UserError:
        return None


def replaced(node: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with other values at dotted keys."""
    copy = dict(node)
    for key, value in values.items():
        first, _, rest = key.partition(".")
        copy[first] = replaced(copy[first], {rest: value}) if rest else value
    return copy
