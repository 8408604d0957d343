"""Row files. A file holds one row, or a series of rows that differ in a few listed values. Imports no torch.

``series: {share: [0.1, 0.2], robust: [0.521, null]}`` makes two rows, named after the file and the values
of the first list (``hardest_0_1``, ``hardest_0_2``). ``${series.share}`` is the row's own value; a key whose value
becomes null is omitted.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trust_exp.errors import UserError

VALUE = re.compile(r"\$\{series\.(\w+)\}")
Content = dict[str, Any]


def load(path: Path) -> Content:
    """The keys and values of a YAML file, with interpolations unresolved.

    Raises:
        UserError: if it is not valid.
    """
    try:
        value = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold keys and values")
    return {str(key): item for key, item in value.items()}


def rows_in(folder: Path) -> Iterator[tuple[Path, str, Content]]:
    """File, name and content of each row in a folder, sorted by file; the rows of a series in its order.

    Raises:
        UserError: if a file or its series is invalid, or two rows have the same name.
    """
    seen: dict[str, Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        for name, content in rows_of(path).items():
            if name in seen:
                raise UserError(f"{path} and {seen[name]} both define the row {name}")
            seen[name] = path
            yield path, name, content


def find_row(folder: Path, name: str) -> tuple[Path, Content] | None:
    """File and content of the named row in a folder; None if there is none.

    Raises:
        UserError: as ``rows_in`` does.
    """
    for path in sorted(folder.glob("*.yaml"), reverse=True):
        if path.stem == name or name.startswith(f"{path.stem}_"):
            content = rows_of(path).get(name)
            if content is not None:
                return path, content
    return None


def choices(content: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of a row: group -> name or names."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    return {
        str(group).removeprefix("override ").strip().lstrip("/"): choice
        for entry in entries
        for group, choice in entry.items()
    }


def rows_of(path: Path) -> dict[str, Content]:
    """The rows of a file by name; a changed file is read again.

    Raises:
        UserError: if the file or its series is invalid.
    """
    return _rows_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _rows_of(path: Path, _: int) -> dict[str, Content]:
    content = load(path)
    if "series" not in content:
        return {path.stem: content}
    series = content.pop("series")
    if not isinstance(series, dict) or not series or not all(isinstance(v, list) and v for v in series.values()):
        raise UserError(f"{path}: series must hold lists, such as {{share: [0.1, 0.2]}}; got {series!r}")
    if len({len(values) for values in series.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in series.items())
        raise UserError(f"{path}: the lists of series must have the same length; got {lengths}")
    points = [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]
    rows = {f"{path.stem}_{_slug(next(iter(point.values())))}": _fill(content, point, path) for point in points}
    if len(rows) < len(points):
        raise UserError(f"{path}: the values of the first list of series must differ, as they name the rows")
    return rows


def _slug(value: Any) -> str:
    """A value as part of a name that needs no quotes in a sweep."""
    return re.sub(r"[^0-9a-z]+", "_", str(value).lower()).strip("_")


def _fill(node: Any, point: Mapping[str, Any], path: Path) -> Any:
    """``node`` with the values of one row filled in."""
    if isinstance(node, dict):
        filled = {key: _fill(item, point, path) for key, item in node.items()}
        return {key: item for key, item in filled.items() if item is not None or node[key] is None}
    if isinstance(node, list):
        return [_fill(item, point, path) for item in node]
    if not isinstance(node, str):
        return node
    if lost := {name for name in VALUE.findall(node) if name not in point}:
        raise UserError(f"{path}: series has no {', '.join(sorted(lost))}; it has {', '.join(point)}")
    if whole := VALUE.fullmatch(node):
        return point[whole[1]]
    return VALUE.sub(lambda match: str(point[match[1]]), node)
