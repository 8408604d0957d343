"""Checks the shapes and dtypes that public functions promise, in every call of their tests."""

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

CHECKER = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check_shapes(package: str, *, beside: Collection[str] = ()) -> None:
    """Check the public functions, methods and dataclasses of a package's modules, or of one module.

    Call it before tests import them. Calls from other modules go unchecked, so that attacks stay fast.

    Args:
        beside: names of classes that are left alone, because loops use them.
    """
    root = importlib.import_module(package)
    inner = [f"{package}.{found.name}" for found in pkgutil.iter_modules(getattr(root, "__path__", ()))]
    for module in (root, *map(importlib.import_module, inner)):
        for name, value in list(vars(module).items()):
            if name.startswith("_") or name in beside or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                check_class(value)
            elif inspect.isfunction(value) and _promises(value):
                checked = jaxtyped(value, typechecker=CHECKER)
                for holder in (module, root):  # a package may offer what is in its modules
                    if vars(holder).get(name) is value:
                        setattr(holder, name, checked)


def check_class(kind: type) -> None:
    """Check the public methods of a class, and the fields of a dataclass."""
    if "Tensor" in str(vars(kind).get("__annotations__")):
        jaxtyped(kind, typechecker=CHECKER)
    for name, member in list(vars(kind).items()):
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function) and _promises(function):
            setattr(kind, name, jaxtyped(member, typechecker=CHECKER))


@contextmanager
def unchecked() -> Iterator[None]:
    """Wrong arguments reach the functions, which refuse them in words of their own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def _promises(function: Any) -> bool:
    generates = inspect.isgeneratorfunction(inspect.unwrap(function))  # what a context manager yields is not returned
    return "Tensor" in str(inspect.get_annotations(function)) and not generates
