"""All results under a folder of runs, or a selection of them; files that cannot be read are reported."""

import fnmatch
import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trust_exp.errors import UserError, unknown
from trust_exp.parsing import parse_json
from trust_exp.results.record import SCHEMA
from trust_exp.runs import Run, is_locked
from trust_exp.stored import malformed

NEEDED = ("run_id", "name", "status", "config", "metrics", "rows", "figures")


@dataclass(frozen=True)
class Found:
    """One run's folder and its result.json."""

    folder: Path
    values: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.values["run_id"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.values["config"])

    def option(self, key: str) -> Any:
        """A value of the configuration by its dotted key; a group such as ``method`` is its name.

        Raises:
            KeyError: if the configuration has no such key.
        """
        if key in ("status", "run_id", "name"):
            return self.values[key]
        value: Any = self.values["config"]
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise KeyError(key)
            value = value[part]
        return value["name"] if isinstance(value, Mapping) and "name" in value else value


@dataclass
class Collection:
    """The results, newest last, and one sentence for each file that could not be read."""

    results: list[Found] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def collect(runs: Path, selection: Sequence[str] = ()) -> Collection:
    """Read every result.json under ``runs`` that matches the selection.

    Args:
        runs: the folder that holds the runs' folders.
        selection: any number of ``key=value[,value...]``, all of which must match (``method=cll status=done,failed``;
            a number by its value, ``method.epsilon=8/255``, all else as a whole), and of run ids, id prefixes, names or
            patterns (``cll-*``), one of which must match.

    Raises:
        UserError: if the folder does not exist, or the selection matches none of its runs.
    """
    if not runs.is_dir():
        raise UserError(f"there is no folder of runs at {runs}; see --runs and TRUST_EXP_RUNS")
    found = Collection()
    with without_garbage_collection():
        for folder in sorted(path.parent for path in runs.glob("*/result.json")):
            try:
                values = read_result(folder)
            except ValueError as error:
                found.unreadable.append(str(error))
            else:
                if values is not None:
                    found.results.append(Found(folder, values))
    wanted = select(found.results, selection)
    if selection and found.results and not wanted:
        check_keys(found.results, selection)
        raise UserError(f"{' '.join(selection)} matches none of the {len(found.results)} runs in {runs}")
    found.results = sorted(wanted, key=lambda result: str(result.values.get("started")))
    return found


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: parsed JSON has no reference cycles, and the collector takes most of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result.json in a folder; None if there is none.

    A run whose status is running although no process holds it counts as interrupted.

    Raises:
        ValueError: if the file is incomplete or of another schema; the message names it.
    """
    path = folder / "result.json"
    try:
        values = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}; this version reads schema {SCHEMA}")
    lacking = malformed("result.json", values, NEEDED)
    if lacking or "error" not in values:
        raise ValueError(f"{path} lacks {', '.join(lacking or ['error'])}")
    if values["status"] == "running" and not is_locked(Run(folder)):
        values |= {"status": "interrupted", "error": "its process ended without a result"}
    return values


def check_keys(results: Iterable[Found], selection: Sequence[str]) -> None:
    """Raise UserError for a ``key=value`` whose key no result has."""
    known = {key for result in results for key in keys_of(result.values["config"])} | {"status", "run_id", "name"}
    for word in selection:
        key, equals, _ = word.partition("=")
        if equals and key not in known:
            group = key.rpartition(".")[0]
            raise unknown("the key", key, (name for name in known if name.rpartition(".")[0] == group))


def keys_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration and its groups, without internal ones such as _target_."""
    for key, value in node.items():
        if not key.startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, Mapping):
                yield from keys_of(value, f"{prefix}{key}.")


def select(results: Iterable[Found], selection: Sequence[str]) -> list[Found]:
    """The results that match a selection; see ``collect``."""
    wanted = [word.split("=", 1) for word in selection if "=" in word]
    names = [word for word in selection if "=" not in word]
    return [
        result
        for result in results
        if all(_holds(result, key, value) for key, value in wanted)
        and (not names or any(_is_called(result, name) for name in names))
    ]


def _holds(result: Found, key: str, allowed: str) -> bool:
    try:
        value = result.option(key)
    except KeyError:
        return False
    return any(_is(value, text) for text in (allowed, *allowed.split(",")))  # a list has commas of its own


def _is(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):  # an id such as 12e4567890 is no number
        return value == _number(text)
    spelled = value if isinstance(value, str) else json.dumps(value)
    return spelled.lower().replace(" ", "") == text.lower().replace(" ", "")


def _number(text: str) -> float | None:
    over, _, under = text.partition("/")
    try:
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _is_called(result: Found, name: str) -> bool:
    wanted = Path(name).name
    begins = len(wanted) >= 4 and result.id.startswith(wanted)
    return begins or wanted == result.folder.name or fnmatch.fnmatch(result.folder.name, wanted)
