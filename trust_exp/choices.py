"""The files of conf/, read without composing: what can be chosen, by which schema, and with which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from trust_exp.errors import UserError, unknown
from trust_exp.schema import CONF, defaults, schema_called

DEFAULTS = ("for/", "for_task/")  # folders of choices that stand for others, as they are or with other values


@dataclass(frozen=True)
class Choice:
    """One file of a group.

    Attributes:
        about: its first comment.
        schema: the dataclass that checks it; None where it has none, as a recipe.
        values: the schema's defaults and what the file and those that it is based on say; nothing is resolved.
    """

    group: str
    name: str
    about: str
    schema: type | None
    values: Mapping[str, Any]


def names(group: str) -> list[str]:
    """The choices of a group.

    Raises:
        UserError: if conf/ is missing.
    """
    if not (CONF / group).is_dir():
        raise UserError(f"{CONF} is missing; install trust_exp from its checkout: pip install -e .")
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def exists(group: str, name: str) -> bool:
    """Whether a group has a choice, also one in a folder below it."""
    return (CONF / group / f"{name}.yaml").is_file()


@cache
def read_choice(group: str, name: str) -> Choice:
    """The choice ``name`` of a group; a name such as ``for/any/digits`` is that of the choice that it stands for.

    Raises:
        UserError: if there is none of that name.
    """
    if not exists(group, name):
        raise unknown(group, name, names(group))
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    content: Any = OmegaConf.to_container(OmegaConf.create(text)) or {}
    schema: type | None = None
    values: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        path = base.partition("@")[0] if isinstance(base, str) else ""
        if path.startswith("/schema/"):
            schema = schema_called(path.removeprefix("/schema/"))
            values |= defaults(schema)
        elif path and path != "_self_":
            other = read_choice(group, path.removeprefix(f"/{group}/"))
            schema, values = other.schema or schema, {**values, **other.values}
            name = other.name if name.startswith(DEFAULTS) else name
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    about = next((comment for comment in comments if not comment.startswith("@package")), "")
    return Choice(group, name, about, schema, {**values, **content})
