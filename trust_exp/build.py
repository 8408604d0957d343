"""Objects from checked configurations: the only place where a name in a configuration becomes a class."""

import importlib
from collections.abc import Mapping
from typing import Any

from trust_exp.errors import UserError

BUILDABLE = ("trust_exp", "torch", "torchvision", "timm", "lightning", "torchmetrics")
LABELS = ("_schema_", "name", "fit", "tasks", "data")  # how a node is called and run, and on which data; not arguments


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """Make the object that a checked node describes: its ``_target_``, with its values and ``given``.

    Raises:
        UserError: as ``target_of``.
    """
    target_of(node)
    from hydra.utils import instantiate

    values = {key: value for key, value in node.items() if key not in LABELS}
    # partial: what is given stays as it is; Hydra would turn dataclasses among it into dictionaries
    make = instantiate(values, _partial_=True, _convert_="all", _recursive_=False)
    return make(**given)


def target_of(node: Mapping[str, Any]) -> Any:
    """The class or function that a checked node is made with.

    Raises:
        UserError: if it is not under one of the packages that may be built from a configuration, or does not exist.
    """
    target = str(node["_target_"])
    module, _, name = target.rpartition(".")
    if target.split(".")[0] not in BUILDABLE:
        raise UserError(f"_target_ must be under one of {', '.join(BUILDABLE)}; got {target!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"_target_={target} cannot be imported: {error}") from error
