"""What a run is made of: schemas, their checks, the identity of a configuration, and building objects from it.

Hydra composes YAML files over the plain defaults of the dataclasses found here and in the ``config.py`` of each part;
``check`` then parses numbers such as ``8/255``, and refuses wrong types and values in one sentence. Imports no torch.
"""

import hashlib
import importlib
import json
import os
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trust_exp.errors import UserError, check_choice, check_range, unknown

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
BUILDABLE = ("trust_exp", "torch", "torchvision", "timm", "lightning", "torchmetrics")


def free(default: Any) -> Any:
    """Dataclass field that is not part of a run's identity: it changes where or how fast, not what comes out."""
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={"identity": False})


def late(default: Any) -> Any:
    """Dataclass field that came later: at its default it is left out of the identity, so earlier runs keep their id."""
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={"late": True})


def reference(*, came_late: bool = False, why_not: Callable[..., str] | None = None) -> Any:
    """Dataclass field that names another run or a file; see ``trust_exp.references``. None unless given.

    Args:
        came_late: as ``late`` says.
        why_not: says of the node with the field, the checked configuration of the run that it names and that of the
            run which it is in, why the one is of no use to the other; empty if it is.
    """
    return field(default=None, metadata={"reference": True, "late": came_late, "why_not": why_not})


@dataclass
class FitConfig:
    """How long to train, and how often to save and to log."""

    epochs: int | None = None
    steps: int | None = None
    gradient_clip: float | None = None
    checkpoint_seconds: float = free(30.0)
    log_every: int = free(50)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise UserError(
                f"give one of fit.epochs and fit.steps; got epochs={self.epochs} and steps={self.steps}: "
                "fit.epochs=null counts steps, fit.steps=null epochs"
            )
        for name in ("epochs", "steps", "log_every"):
            check_range(f"fit.{name}", getattr(self, name), least=1)
        check_range("fit.gradient_clip", self.gradient_clip, above=0)
        check_range("fit.checkpoint_seconds", self.checkpoint_seconds, least=0)


@dataclass
class AcceleratorConfig:
    """Where a run runs; what changes the numbers is part of the identity."""

    kind: str = free("auto")
    devices: int = free(1)
    nodes: int = free(1)
    precision: str = "32-true"
    compile: bool = free(False)
    channels_last: bool = free(False)
    sync_batchnorm: bool = late(False)  # batch norm over all processes: the numbers of one, on any number of GPUs
    threads: int | None = free(None)  # of the CPU; None: one a core. Tiny networks are fastest with 1

    def __post_init__(self) -> None:
        check_choice("accelerator.kind", self.kind, ("auto", "cpu", "gpu"))
        check_choice("accelerator.precision", self.precision, ("32-true", "bf16-mixed", "16-mixed"))
        check_range("accelerator.devices", self.devices, least=1)
        check_range("accelerator.nodes", self.nodes, least=1)
        check_range("accelerator.threads", self.threads, least=1)


@dataclass
class PathsConfig:
    """Where data are read and runs are written; nothing else is written."""

    data: str = "${oc.env:TRUST_EXP_DATA,data}"
    runs: str = "${oc.env:TRUST_EXP_RUNS,multirun}"


@dataclass
class PaperConfig:
    """What a paper prints for the run: a row of ``experiments/``. ``values`` are in the units of the metrics."""

    row: str = MISSING  # as the paper calls it
    group: str | None = None  # the part of the table it stands in; in a figure its panel
    curve: str | None = None  # in a figure: the curve that it is a point of
    x: Any = None  # where on it, a number or a name; None: a level across the panel
    values: dict[str, Any] = field(default_factory=dict)  # metric -> number, or the numbers of each seed
    note: str | None = None


@dataclass
class RootConfig:
    """A whole run. The parts of type Any are checked by the schema that their file names."""

    mode: str = free("train")
    run: str | None = free(None)
    force: bool = free(False)
    seed: int = 0
    size: str = MISSING
    source: str | None = reference(came_late=True)  # the run that this one builds on: an id, a path, '[overrides]'
    checkpoint: str | None = reference(came_late=True)  # weights that the model starts from: a file, or a run
    recipe: str | None = free(None)
    paths: PathsConfig = free(PathsConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    logger: Any = free(None)
    sweep: str | None = free(None)  # the name of the sweep that started the run
    objective: list[str] | None = free(None)  # metrics that a sweeper such as Optuna optimises
    paper: PaperConfig | None = free(None)
    method: Any = MISSING
    model: Any = MISSING
    dataset: Any = MISSING
    eval: Any = free(None)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("train", "eval"))
        check_range("seed", self.seed, least=0, most=2**32 - 1)
        if self.mode == "eval" and self.run is None:
            raise UserError("mode=eval needs run=<id>: the run to evaluate")
        if self.mode == "train" and self.run is not None:
            raise UserError(f"run={self.run} names an earlier run; to evaluate it, add mode=eval")


# --- schemas: found, not listed ------------------------------------------------------------------------------------


def schemas() -> Iterator[type]:
    """Every dataclass of this file and of the ``config.py`` of each part and each family of methods."""
    families = pkgutil.iter_modules([str(ROOT / "trust_exp" / "methods")])
    methods = [f"methods.{family.name}" for family in families if family.ispkg]
    parts = ["data", "models", "evals", "loggers", "launch", *methods]
    for module in (__name__, *(f"trust_exp.{part}.config" for part in parts)):
        for value in vars(importlib.import_module(module)).values():
            if is_dataclass(value) and isinstance(value, type) and value.__module__ == module:
                yield value


def register() -> None:
    """Give Hydra the defaults of every schema (group ``schema``) and the resolvers that conf/config.yaml uses."""
    store = ConfigStore.instance()
    for schema in schemas():
        node = {"_schema_": f"{schema.__module__}:{schema.__name__}", **defaults(schema)}
        store.store(group="schema", name=schema.__name__, node=node)
    # Hydra finds plugins by walking folders, and so misses those of an editable install.
    for name in ("searchpath", "launchers"):
        for value in vars(importlib.import_module(f"hydra_plugins.trust_exp.{name}")).values():
            if isinstance(value, type) and value.__module__.startswith("hydra_plugins."):
                Plugins.instance().register(value)
    OmegaConf.register_new_resolver("model_for", model_for, replace=True)
    OmegaConf.register_new_resolver("evals_for", evals_for, replace=True)
    OmegaConf.register_new_resolver("attack_radius", attack_radius, replace=True)
    OmegaConf.register_new_resolver("sweep_name", lambda *, _root_: sweep_name(_root_), replace=True)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)


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


def model_for(method: str, dataset: str) -> str:
    """The model when none is asked for: that of the pair, else of the method, else of the data set, else timm's."""
    choices = (f"for/{method}/{dataset}", f"for/{method}/any", f"for/any/{dataset}")
    return next((choice for choice in choices if (CONF / "model" / f"{choice}.yaml").exists()), "timm")


def evals_for(method: str) -> str:
    """The evals when none are asked for: those of the method, else the usual ones."""
    return f"for/{method}" if (CONF / "eval" / "for" / f"{method}.yaml").exists() else "usual"


def attack_radius(norm: str, *, _root_: DictConfig) -> Any:
    """The radius of an attack that names none: the method's own, if it has one in this norm; else the usual one."""
    own = OmegaConf.select(_root_, "method.epsilon")
    if own is not None and norm == OmegaConf.select(_root_, "method.norm", default="L2"):
        return own
    return 36 / 255 if norm == "L2" else 8 / 255


# --- checks --------------------------------------------------------------------------------------------------------


def check(config: DictConfig) -> dict[str, Any]:
    """Turn a composed configuration into plain values of the right types, or say in one sentence what is wrong.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    from trust_exp.references import settle  # here, as it is built on this module

    try:
        plain = {str(key): to_plain(config, str(key)) for key in config if key != "hydra"}
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    checked = _check_node(plain, ROOT_SCHEMA, "")
    checked["method"] = _check_node(checked["method"], None, "method")
    _check_trained(checked)  # before the model, which can say less
    for group in ("model", "dataset", "logger"):
        checked[group] = _check_node(checked[group], None, group)
    evals = dict(checked["eval"] or {})
    checked["usual_evals"] = bool(evals.pop("usual", False))
    # An eval that a recipe tunes but nobody asked for has values, but no schema; one that it leaves out is null.
    chosen = {name: node for name, node in evals.items() if node and "_schema_" in node}
    checked["eval"] = {name: _check_node(node, None, f"eval.{name}") for name, node in chosen.items()}
    _check_task(checked["method"], checked["dataset"])
    settle(checked)
    if checked["mode"] == "train":  # else the model is that of the stored run
        leave_out_evals(checked)
    return checked


TASKS = {
    "classification": "a class for each image",
    "segmentation": "a class or concepts for each pixel",
    "detection": "boxes",
}


def _check_task(method: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Refuse a pair in which the method needs labels that the data do not have."""
    needs, has = method["tasks"], dataset["task"]
    if has not in needs:
        texts = {path.stem: path.read_text() for path in sorted((CONF / "dataset").glob("*.yaml"))}
        tasks = {name: re.search(r"^task: (\w+)", text, re.MULTILINE) for name, text in texts.items()}
        fit = [name for name, task in tasks.items() if (task[1] if task else "classification") in needs]
        wanted = " or ".join(TASKS[need] for need in needs)
        raise UserError(
            f"method={method['name']} needs {wanted}; dataset={dataset['name']} has {TASKS[has]}; "
            f"data sets that fit: {', '.join(fit)}"
        )


def _check_trained(checked: Mapping[str, Any]) -> None:
    """Refuse to explain a network that nobody has trained."""
    method, model = checked["method"], checked["model"] or {}
    needs = getattr(find_schema(method["_schema_"]), "needs_trained_model", False)
    if (
        needs
        and checked["mode"] == "train"
        and not (checked["checkpoint"] or model.get("pretrained") or model.get("source"))
    ):
        raise UserError(
            f"method={method['name']} needs a trained network: source=<a run> without model=, or model=<its model> "
            "with checkpoint=<a file of weights>, or model=timm with model.pretrained=true"
        )


def target_of(node: Mapping[str, Any]) -> Any:
    """The class or function that a checked node is made with."""
    module, _, name = str(node["_target_"]).rpartition(".")
    return getattr(importlib.import_module(module), name)


def leave_out_evals(checked: dict[str, Any]) -> None:
    """Take ``certify`` from the evals if the network cannot be put to it; ``left_out`` then says why.

    Raises:
        UserError: if it was asked for by its name, and not among the usual ones; or for an eval of what the method does
            not give.
    """
    from trust_exp.references import network_of  # here, as it is built on this module

    given = getattr(find_schema(checked["method"]["_schema_"]), "gives", ())
    for name, node in checked["eval"].items():
        needs = getattr(find_schema(node["_schema_"]), "needs", None)
        if needs is not None and needs not in given:
            raise UserError(f"eval={name} is of {needs}; method={checked['method']['name']} gives none")
    if "certify" not in checked["eval"]:
        return
    network = network_of(checked)
    if find_schema(network["_schema_"]).layers_are_known:  # type: ignore[attr-defined]
        return
    why = f"no Lipschitz constant is known of the layers of {network['name']}"
    checked["eval"] = {name: node for name, node in checked["eval"].items() if name != "certify"}
    if not checked["usual_evals"]:
        rest = ",".join(checked["eval"])
        raise UserError(f"eval=certify cannot run: {why}" + (f"; choose eval=[{rest}]" if rest else ""))
    checked["left_out"] = {"certify": why}


def refuse_idle_overrides(overrides: Sequence[str], checked: Mapping[str, Any]) -> None:
    """Raise UserError for a value of an eval that does not run: it would be ignored."""
    chosen, left_out = checked["eval"], checked.get("left_out", {})
    for text in overrides:
        parts = text.partition("=")[0].lstrip("+").split(".")
        if parts[0] == "eval" and len(parts) > 2 and parts[1] not in chosen:
            why = f"left out ({left_out[parts[1]]})" if parts[1] in left_out else "not chosen"
            raise UserError(f"{text} changes nothing, as eval={parts[1]} is {why}; there runs {', '.join(chosen)}")


def check_options(node: Any, path: str) -> dict[str, Any]:
    """The plain, checked values of a node that names its schema.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    return {key: value for key, value in _check_node(node, None, path).items() if not key.startswith("_")}


def check_node(node: Any, path: str) -> dict[str, Any]:
    """The checked values of a node within a node, with its schema: a field of type Any is its owner's to check.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    return _check_node(node, None, path)


def to_plain(config: DictConfig, key: str) -> Any:
    """One top-level part of a configuration with its interpolations resolved, as plain Python values."""
    if OmegaConf.is_missing(config, key):
        return MISSING
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def find_schema(reference: str) -> type:
    """The dataclass behind ``module:Name``."""
    module, _, name = reference.partition(":")
    return typing.cast(type, getattr(importlib.import_module(module), name))


@cache
def type_hints(schema: type) -> dict[str, Any]:
    """The types of a dataclass' fields; a table asks for those of thousands of configurations."""
    return typing.get_type_hints(schema)


def _check_node(node: Any, reference: str | None, path: str) -> dict[str, Any]:
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
        return value
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
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = {float: "a number (8/255 is one)", int: "a whole number", bool: "true or false", str: "a text"}
    raise UserError(f"{path} must be {names.get(wanted, wanted.__name__)}; got {value!r}")


# --- identity ------------------------------------------------------------------------------------------------------

ROOT_SCHEMA = f"{__name__}:RootConfig"


def identity(node: Any, schema: type) -> Any:
    """The part of a checked configuration that decides the outcome: no free fields."""
    kept = {}
    for entry in fields(schema):
        value = node.get(entry.name)
        if entry.metadata.get("late") and (entry.name not in node or value == _default(entry)):
            continue
        if entry.metadata.get("identity", True):
            kept[entry.name] = _identity_of(value, type_hints(schema)[entry.name])
    return kept


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is NO_DEFAULT else entry.default_factory()


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
    from trust_exp.references import replaced

    told = checked.get("references", {})
    cells = {key: found["cell"] for key, found in told.items() if found.get("follows")}
    return digest(identity({**replaced(checked, cells), "seed": None}, RootConfig))


def eval_id(node: Mapping[str, Any]) -> str:
    """The id of an evaluation: its suite's settings, without where it runs."""
    return digest(identity(node, find_schema(node["_schema_"])))


def run_name(config: DictConfig) -> str:
    """``<method>-<dataset>-<run id>``; with mode=eval, the folder's name of the run asked for."""
    from trust_exp.runs import find

    checked = check(config)
    if checked["mode"] == "eval":
        return find(checked["paths"]["runs"], checked["run"]).folder.name
    return folder_name(checked)


def folder_name(checked: Mapping[str, Any]) -> str:
    """What the folder of the run that a checked configuration describes is called."""
    return f"{checked['method']['name']}-{checked['dataset']['name']}-{run_id(checked)}"


@cache
def _stamp() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"


def sweep_name(config: DictConfig) -> str:
    """The sweep's name: the one given, else when this process began it.

    Raises:
        UserError: if it is a path: the sweep's folder would lie elsewhere.
    """
    name = str(OmegaConf.select(config, "sweep") or _stamp())
    if "/" in name or name in (".", ".."):
        raise UserError(f"sweep must be a name, not a path, as its folder lies in paths.runs/sweeps; got {name!r}")
    return name


# --- building ------------------------------------------------------------------------------------------------------


LABELS = ("_schema_", "name", "fit", "tasks")  # what a node is called and how it is run, not what it is made with


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """Make the object that a checked node describes: its ``_target_``, with its values and ``given``.

    Raises:
        UserError: if the target is not under one of the packages that may be built from a configuration.
    """
    target = str(node["_target_"])
    if target.split(".")[0] not in BUILDABLE:
        raise UserError(f"_target_ must be under one of {', '.join(BUILDABLE)}; got {target!r}")
    from hydra.utils import instantiate

    values = {key: value for key, value in node.items() if key not in LABELS}
    # partial: what is given stays as it is; Hydra would turn dataclasses among it into dictionaries
    make = instantiate(values, _partial_=True, _convert_="all", _recursive_=False)
    return make(**given)
