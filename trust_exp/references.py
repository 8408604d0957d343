"""Runs and files that a run builds on: named by id or path, or described by overrides. Imports no torch.

A field marked ``reference()`` holds the text that the user wrote. ``resolve_references`` replaces it with what decides
the weights: the id of a run, or a digest of a file. The text, and the place where it was found, are kept under
``references`` of the checked configuration, which is not part of a run's identity.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

from trust_exp.config import RootConfig
from trust_exp.errors import UserError
from trust_exp.identity import cell_id, run_id
from trust_exp.overrides import quote_runs
from trust_exp.runs import TRAINED_PARTS, Ambiguous, Run, find_run, holder
from trust_exp.schema import CONF, find_schema, replaced, schemas, type_hints

RUN_ID = re.compile(r"[0-9a-f]{4,10}")


@dataclass(frozen=True)
class Described:
    """A run that overrides describe; ``follows``: its seed is that of the run that needs it."""

    config: dict[str, Any]
    overrides: tuple[str, ...]
    follows: bool


# of the key of a reference, the overrides as they were written, and the configuration that they stand in
Describe = Callable[[str, str, Mapping[str, Any]], Described]


# --- what a user writes ---------------------------------------------------------------------------------------------


def quoted(argument: str) -> str:
    """An override with quotes where Hydra would misread the run that it names or describes."""
    return quote_runs(argument, _reference_names())


@cache
def _reference_names() -> set[str]:
    return {"run"} | {entry.name for schema in schemas() for entry in fields(schema) if entry.metadata.get("reference")}


# --- what it stands for ---------------------------------------------------------------------------------------------


def resolve_references(checked: dict[str, Any], describe: Describe) -> None:
    """Put in the place of each reference what it stands for, and keep under ``references`` how that is found.

    With mode=eval the run's own stored configuration says what it was trained with, so that is left alone.

    Raises:
        UserError: naming the key, if it stands for nothing, for a run that is not trained, or for what needs itself;
            also for a source that nothing is built on.
    """
    known: dict[str, dict[str, Any]] = {}
    for key, node, entry in list(_places(checked, RootConfig)):
        if checked["mode"] != "eval" or key.split(".")[0] not in TRAINED_PARTS:
            known[key] = _look_up(key, node, entry, checked, describe)
            node[entry.name] = known[key].get("run") or f"sha256:{known[key]['sha256']}"
    if "source" in known and not any(key != "source" and known[key] == known["source"] for key in known):
        method = checked["method"]["name"]
        has_own = (CONF / "model" / "for" / method / "any.yaml").exists()
        own = "; leave out model=, and it takes one that does" if has_own else ""
        raise UserError(
            f"source={known['source']['written']} changes nothing: neither method={method} nor "
            f"model={checked['model']['name']} builds on one{own}"
        )
    if known:
        checked["references"] = known


def _places(node: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], Field[Any]]]:
    """Dotted key, node and field of each reference that is given."""
    if not isinstance(node, dict):
        return
    wanted = next((kind for kind in get_args(wanted) if is_dataclass(kind)), wanted) if _is_union(wanted) else wanted
    schema = find_schema(node["_schema_"]) if "_schema_" in node else wanted
    if not is_dataclass(schema):  # a group of nodes, such as the evals
        for name, value in node.items():
            yield from _places(value, Any, f"{path}{name}.")
        return
    for entry in fields(schema):
        if entry.metadata.get("reference") and node.get(entry.name) is not None:
            yield f"{path}{entry.name}", node, entry
        else:
            hint = type_hints(cast(type, schema))[entry.name]
            yield from _places(node.get(entry.name), hint, f"{path}{entry.name}.")


def _is_union(wanted: Any) -> bool:
    return isinstance(wanted, UnionType)


def _look_up(
    key: str, node: Mapping[str, Any], entry: Field[Any], checked: Mapping[str, Any], describe: Describe
) -> dict[str, Any]:
    """The run or file that a reference stands for, as JSON; of a run also what ``cell_id`` needs."""
    written: str = node[entry.name]
    why_not = entry.metadata.get("why_not") or (lambda *_: "")
    if written.startswith("["):
        found = describe(key, written, checked)
        if why := why_not(node, found.config, checked):
            raise UserError(f"{key}={written}: {why}")
        return {"written": written, **_facts_of(found.config, found.follows)}
    path, runs = Path(written).expanduser(), checked["paths"]["runs"]
    if RUN_ID.fullmatch(written) is None and path.is_file():
        return {"written": written, "file": str(path.resolve()), "sha256": digest_of(path)}
    if RUN_ID.fullmatch(written) is None and (path / "config.json").is_file():
        run, where = Run(path.resolve()), {"folder": str(path.resolve())}
    else:
        run, where = _find(key, written, runs), {}
    if why := why_untrained(run):
        raise UserError(f"{key}={written}: run {run.folder.name} {why}")
    stored = run.configuration()["config"]
    if why := why_not(node, stored, checked):
        raise UserError(f"{key}={written}: run {run.folder.name} is of no use: {why}")
    return {"written": written, **_facts_of(stored, follows=False, name=run.id), **where}


def _facts_of(config: Mapping[str, Any], follows: bool, name: str | None = None) -> dict[str, Any]:
    return {"run": name or run_id(config), "seed": config["seed"], "cell": cell_id(config), "follows": follows}


def _find(key: str, written: str, runs: str) -> Run:
    try:
        return find_run(runs, written)
    except Ambiguous as error:
        raise UserError(str(error).replace("run=", f"{key}=", 1)) from None
    except UserError:
        raise UserError(
            f"{key}={written}: there is no such run in {runs}, and no such file; it is a run's id, a path, or "
            "overrides such as '[method=standard,dataset=digits]'"
        ) from None


def why_untrained(run: Run) -> str:
    """Why a run cannot be built upon, as the end of a sentence; empty if it can."""
    if run.is_trained:
        return ""
    if by := holder(run):
        return f"is being run by {by}; wait until it is done"
    result = run.read("result.json")
    if result is None:
        return "was never trained; run its own command first"
    if result.get("status") == "failed":
        return f"failed ({result.get('error')}); run its own command again"
    return "was stopped before it was trained; run its own command again, which goes on with it"


@cache
def _digest(path: Path, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of(path: Path) -> str:
    """16 hex digits that name a file's content."""
    about = path.stat()
    return _digest(path.resolve(), about.st_mtime_ns, about.st_size)


# --- runs that overrides describe ------------------------------------------------------------------------------------


def described_in(checked: Mapping[str, Any], describe: Describe) -> list[Described]:
    """The runs that the references of a checked configuration describe by overrides, each once."""
    known = checked.get("references", {})
    texts = dict.fromkeys(found["written"] for found in known.values() if found["written"].startswith("["))
    return [describe("source", text, checked) for text in texts]


def network_of(checked: Mapping[str, Any], describe: Describe) -> Mapping[str, Any]:
    """The checked node of the network behind a model: its own, or that of the run whose layers it keeps.

    Its own, too, where it is not known of which network they are.
    """
    node: Mapping[str, Any] = checked["model"]
    known = checked.get("references", {}).get("model.source", {})
    if node.get("network") is not None:
        network: Mapping[str, Any] = node["network"]
        return network
    if "run" not in known:
        return node
    if checked["mode"] == "train" and known["written"].startswith("["):
        return network_of(describe("model.source", known["written"], checked).config, describe)
    try:
        run = Run(Path(known["folder"])) if "folder" in known else find_run(checked["paths"]["runs"], known["run"])
    except UserError:  # it is gone, which is said where it is needed
        return node
    if not (run.folder / "config.json").exists():
        return node
    stored = run.configuration()["config"]
    return network_of({**stored, "mode": "eval", "paths": checked["paths"]}, describe)  # its sources are trained too


# --- where it is ----------------------------------------------------------------------------------------------------


def at_paths(config: Mapping[str, Any], part: str, runs: str | Path | None = None) -> Any:
    """A part of a checked configuration with paths for references: of a run's folder, or of a file.

    Args:
        runs: where runs are; None: where the configuration says.

    Raises:
        UserError: if a run is gone or not trained, or a file is gone or another one.
    """
    paths = {
        key: str(_path_of(key, known, runs or config["paths"]["runs"]))
        for key, known in config.get("references", {}).items()
        if key.split(".")[0] == part
    }
    return replaced({part: config.get(part)}, paths)[part]


def _path_of(key: str, known: Mapping[str, Any], runs: str | Path) -> Path:
    if "run" not in known:
        file = Path(known["file"])
        if not file.is_file():
            raise UserError(f"{key}: the file {file} is gone")
        if digest_of(file) != known["sha256"]:
            raise UserError(f"{key}: the file {file} is another one than when the run began")
        return file
    try:
        run = find_run(runs, known["run"])
    except UserError:
        run = Run(Path(known.get("folder", "")))
        if not (run.folder / "config.json").is_file() or "folder" not in known:
            raise UserError(f"{key}: run {known['run']} is not in {runs} any more") from None
    if why := why_untrained(run):
        raise UserError(f"{key}: run {run.folder.name} {why}")
    return run.folder.resolve()


def cells_of(checked: Mapping[str, Any]) -> set[str]:
    """The cells that a run belongs to: the one in which its sources stay and its seed changes, and the one in which
    its sources, if they have its seed, change with it.
    """
    known: Mapping[str, Mapping[str, Any]] = checked.get("references", {})
    fixed = {key: {**found, "follows": False} for key, found in known.items()}
    along = {key: {**found, "follows": found.get("seed") == checked["seed"]} for key, found in known.items()}
    return {cell_id({**checked, "references": variant}) for variant in (fixed, along)}
