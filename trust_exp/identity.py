"""The identity of a configuration: ids of runs and evals are hashes of all that decides their outcome.

Imports no torch.
"""

import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, asdict, fields, is_dataclass
from typing import Any

from trust_exp.config import RootConfig
from trust_exp.schema import find_schema, replaced, type_hints


def identity(node: Any, schema: type) -> Any:
    """The part of a checked configuration that decides the outcome: no free fields."""
    kept = {}
    for entry in fields(schema):
        value = node.get(entry.name)
        if entry.metadata.get("added_later") and (entry.name not in node or value == _default(entry)):
            continue
        if entry.metadata.get("identity", True):
            if "before" in entry.metadata:
                value = entry.metadata["before"].get(value, value)
            kept[entry.name] = _identity_of(value, type_hints(schema)[entry.name])
    return kept


def _default(entry: Field[Any]) -> Any:
    value = entry.default if entry.default_factory is NO_DEFAULT else entry.default_factory()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _identity_of(value: Any, wanted: Any) -> Any:
    if isinstance(value, Mapping) and "_schema_" in value:
        return identity(value, find_schema(value["_schema_"]))
    if isinstance(value, Mapping) and isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    return identity(value, typing.cast(type, wanted)) if isinstance(value, Mapping) and is_dataclass(wanted) else value


def digest(value: Any) -> str:
    """Ten hex digits that name a JSON-like value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_id(checked: Mapping[str, Any]) -> str:
    """The id of the run that a checked configuration describes."""
    return digest(identity(checked, RootConfig))


def cell_id(checked: Mapping[str, Any]) -> str:
    """The id of all runs that differ from this one in their seed only, and in that of sources that follow it."""
    known = checked.get("references", {})
    cells = {key: found["cell"] for key, found in known.items() if found.get("follows")}
    return digest(identity({**replaced(checked, cells), "seed": None}, RootConfig))


def eval_id(node: Mapping[str, Any]) -> str:
    """The id of an evaluation: its suite's settings, without where it runs."""
    return digest(identity(node, find_schema(node["_schema_"])))


def eval_name(name: str, node: Mapping[str, Any]) -> str:
    """The name of an eval in a run's record; it ends in the name of the eval's own data, if it has any."""
    return name if node.get("data") is None else f"{name}@{node['data']['name']}"


def folder_name(checked: Mapping[str, Any]) -> str:
    """The name of the folder of the run that a checked configuration describes."""
    return f"{checked['method']['name']}-{checked['dataset']['name']}-{run_id(checked)}"
