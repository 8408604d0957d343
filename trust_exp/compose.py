"""Composing: what Hydra needs to know of us, the choices that follow from other choices, and checked configurations.

Imports no torch.
"""

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trust_exp import choices
from trust_exp.check import check_parts, refuse_idle_overrides
from trust_exp.config import AcceleratorConfig
from trust_exp.contract import misfit, part
from trust_exp.errors import UserError
from trust_exp.identity import folder_name
from trust_exp.messages import sentence_for
from trust_exp.overrides import key_of, overrides_in
from trust_exp.recipes import NONE, recipe_for, settings_at_size
from trust_exp.references import Described, quoted
from trust_exp.runs import find_run
from trust_exp.schema import CONF, defaults, find_schema, number_of, schemas
from trust_exp.tasks import task_of

OWN = "own"  # task=own: that of the data set's file
NOT_FOR_A_SOURCE = ("mode", "run", "force", "paths", "sweep", "objective", "paper", "hydra")


# --- what Hydra needs to know -----------------------------------------------------------------------------------------


def register() -> "Composer":
    """Give Hydra the defaults of every schema (group ``schema``) and the resolvers that conf/ uses.

    Returns:
        The composer that names the folders of runs; it remembers what it has checked.
    """
    _register_parts()
    composer = Composer()
    resolvers: dict[str, Callable[..., Any]] = {
        "model_for": model_for,
        "evals_for": evals_for,
        "chosen_model": lambda *, _root_: chosen_model(_root_),
        "recipe_for": recipe_for,
        "settings_at_size": settings_at_size,
        "attack_radius": attack_radius,
        "certified_radii": certified_radii,
        "sweep_name": lambda *, _root_: sweep_name(_root_),
        "run_name": lambda *, _root_: composer.run_name(_root_),
    }
    for key, resolver in resolvers.items():
        OmegaConf.register_new_resolver(key, resolver, replace=True)
    return composer


@cache
def _register_parts() -> None:
    store = ConfigStore.instance()
    # Hydra copies its sources each time it composes, this store among them: a tenth of a second for what never changes.
    vars(store)["__deepcopy__"] = lambda memo: store
    seen: dict[str, type] = {}
    for schema in schemas():
        if (other := seen.setdefault(schema.__name__, schema)) is not schema:
            raise UserError(
                f"two schemas are called {schema.__name__}, in {other.__module__} and {schema.__module__}; rename one"
            )
        node = {"_schema_": f"{schema.__module__}:{schema.__name__}", **defaults(schema)}
        store.store(group="schema", name=schema.__name__, node=node)
    # Hydra finds plugins by walking folders, and so misses those of an editable install.
    for name in ("searchpath", "launchers"):
        for value in vars(importlib.import_module(f"hydra_plugins.trust_exp.{name}")).values():
            if isinstance(value, type) and value.__module__.startswith("hydra_plugins."):
                Plugins.instance().register(value)
    # Hydra composes everything once more to read hydra.mode, a quarter of a second; only overrides set it here.
    Hydra.get_mode = _mode_in  # type: ignore[method-assign, assignment]


def _mode_in(hydra: Hydra, config_name: str | None, overrides: Sequence[str]) -> RunMode | None:
    given = [text.split("=", 1)[1] for text in overrides if text.lstrip("+").startswith("hydra.mode=")]
    return RunMode.__members__.get(given[-1]) if given else None


def with_task(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the task that a value of theirs sets as a choice, which the choice of model and evals needs.

    Hydra chooses files before it looks at values, so ``dataset.task=segmentation`` alone would come too late.
    """
    values = dict(text.lstrip("+").split("=", 1) for text in overrides if "=" in text)
    given = {key.removeprefix("dataset."): value for key, value in values.items() if key.startswith("dataset.")}
    task = task_of(given)
    if task is None or "task" in values or not choices.exists("task", task):
        return list(overrides)
    return [f"task={task}", *overrides]


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of these overrides; within ``composing()``."""
    return hydra_compose("config", with_task(overrides))


@contextmanager
def composing() -> Iterator[None]:
    """Hydra ready to compose, if it is not."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        _register_once()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield


@cache
def _register_once() -> None:
    register()


# --- choices that follow from others ----------------------------------------------------------------------------------


def model_for(method: str, dataset: str, task: str) -> str:
    """The model when none is chosen: that of the pair, of the method, of the data set, or of the task.

    One that does not fit is passed over; so data that all methods share may name a model that some of them cannot use.
    """
    if not all(choices.exists(group, name) for group, name in (("method", method), ("dataset", dataset))):
        return NONE  # Hydra says that it is misspelt
    task = _task(dataset, task)
    learner = choices.read_choice("method", method)
    needs = getattr(learner.schema, "needs", ())
    wanted = [f"for/{method}/{dataset}", f"for/{method}/any", f"for/any/{dataset}"]
    wanted += [*(f"for_task/{task}/{need}" for need in needs), f"for_task/{task}"]
    found = [name for name in wanted if choices.exists("model", name)]
    data = part("dataset", dataset, None, {"task": task})
    about = part("method", method, learner.schema, {})
    if "network" in about.gives:
        return NONE
    for name in found:
        model = choices.read_choice("model", name)
        if not misfit(about, part("model", model.name, model.schema, {}), data, has=("trained",)):
            return name
    return found[0] if found else NONE


def chosen_model(known: DictConfig) -> str:
    """The model that is chosen, else that of ``model_for``.

    Args:
        known: the choices that are made so far, by their groups.
    """
    return str(OmegaConf.select(known, "model") or model_for(known.method, known.dataset, known.task))


def evals_for(method: str, dataset: str, task: str) -> str:
    """The evals when none are chosen: those of the method, else those of the task."""
    if choices.exists("eval", f"for/{method}"):
        return f"for/{method}"
    name = f"for_task/{_task(dataset, task)}" if choices.exists("dataset", dataset) else NONE
    return name if choices.exists("eval", name) else NONE


def _task(dataset: str, task: str) -> str:
    if task != OWN:
        return task
    return task_of(choices.read_choice("dataset", dataset).values) or ""


def attack_radius(norm: str, *, _root_: DictConfig) -> Any:
    """The radius of an attack that names none: the one that the method trains for in this norm, else the usual one."""
    schema = find_schema(str(OmegaConf.select(_root_, "method._schema_")))
    if getattr(schema, "trains_for_a_radius", False) and norm == OmegaConf.select(_root_, "method.norm", default="L2"):
        return OmegaConf.select(_root_, "method.epsilon")
    return 36 / 255 if norm == "L2" else 8 / 255


def certified_radii(usual: Sequence[Any], *, _root_: DictConfig) -> list[Any]:
    """The radii of certificates when none are given: the usual ones and those of attacks in L2, which they bound.

    Where a radius of an attack and a usual one share the first three digits, by which metrics are named, it is the
    attack's.

    Args:
        usual: radii, numbers or fractions such as 36/255.
    """
    own = OmegaConf.select(_root_, "method.norm", default="L2")
    asked = [node for node in (_root_.get("eval") or {}).values() if OmegaConf.is_dict(node)]
    attacks = [
        node.epsilon
        for node in asked
        if OmegaConf.select(node, "epsilon") is not None and (node.get("norm") or own) == "L2"
    ]
    radii = [*(attacks or [attack_radius("L2", _root_=_root_)]), *usual]
    by_name = {f"{number:.3g}": number for number in map(number_of, reversed(radii)) if number is not None}
    odd = [radius for radius in radii if number_of(radius) is None]  # the check of the configuration names it
    return [*sorted(by_name.values()), *odd]


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


# --- checked configurations -------------------------------------------------------------------------------------------


def check(config: DictConfig) -> dict[str, Any]:
    """The checked values of one composed configuration; see ``Composer.check``."""
    return Composer().check(config)


def run_name(config: DictConfig) -> str:
    """The name of one configuration's folder; see ``Composer.run_name``."""
    return Composer().run_name(config)


class Composer:
    """Checks composed configurations, and those of the runs that they describe by overrides, each once."""

    def __init__(self) -> None:
        self._described: dict[str, Described] = {}
        self._open: list[tuple[str, ...]] = []  # the overrides that are being composed, the outermost first
        self._last: tuple[str, dict[str, Any]] = ("", {})  # Hydra asks for the folder's name of what is checked next

    def check(self, config: DictConfig) -> dict[str, Any]:
        """Turn a composed configuration into plain values of the right types that fit each other.

        Raises:
            UserError: naming the key, the value given and what is allowed.
        """
        values = {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}  # type: ignore[union-attr]
        text = json.dumps(values, default=str)
        if self._last[0] != text:
            self._last = (text, check_parts(config, self.describe))
        return deepcopy(self._last[1])

    def run_name(self, config: DictConfig) -> str:
        """``<method>-<dataset>-<run id>``; with mode=eval, the folder's name of the run that is evaluated."""
        checked = self.check(config)
        if checked["mode"] == "eval":
            return find_run(checked["paths"]["runs"], checked["run"]).folder.name
        return folder_name(checked)

    def describe(self, key: str, written: str, child: Mapping[str, Any]) -> Described:
        """The run that overrides in brackets describe, composed and checked like a command line of its own.

        It has the paths and the accelerator of the run that needs it, and its size and seed unless it has others. Of
        the evals it has those that every source has, unless it names some.

        Raises:
            UserError: naming the key, if the overrides cannot be used, or describe a run that needs itself.
        """
        parts = ("paths", "accelerator", "size", "seed")
        text = json.dumps([written, {part: child[part] for part in parts}], sort_keys=True)
        if text not in self._described:
            try:
                self._described[text] = self._compose(written, child)
            except Exception as error:
                sentence = sentence_for(error)
                if sentence is None:
                    raise
                raise UserError(f"{key}={written}: {sentence}") from error
        return self._described[text]

    def _compose(self, written: str, child: Mapping[str, Any]) -> Described:
        given = overrides_in(written)
        keys = [key_of(text) for text in given]
        for key in keys:
            if key.part in NOT_FOR_A_SOURCE:
                raise UserError(f"{key.name} cannot be set for a source: the run that needs it decides it")
        names = {key.name for key in keys}
        inherited = [f"{name}={child[name]}" for name in ("size", "seed") if name not in names]
        overrides = tuple(quoted(text) for text in (*inherited, *given))
        if overrides in self._open:
            raise UserError("it needs itself")
        self._open.append(overrides)
        try:
            with composing():
                config = composed(overrides)
                _inherit(config, child, names)
                checked = check_parts(config, self.describe)
        finally:
            self._open.pop()
        refuse_idle_overrides(given, checked)
        if not any(name.split(".")[0] == "eval" for name in names):
            kept = {name: node for name, node in checked["eval"].items() if find_schema(node["_schema_"]).of_sources}  # type: ignore[attr-defined]
            checked["eval"] = kept
            checked.pop("left_out", None)
        return Described(checked, overrides, "seed" not in names)


def _inherit(config: DictConfig, child: Mapping[str, Any], names: set[str]) -> None:
    """Give a source the paths of the run that needs it, and of its accelerator what differs from the usual."""
    for name, value in child["paths"].items():
        OmegaConf.update(config, f"paths.{name}", value)
    for entry in fields(AcceleratorConfig):
        value = child["accelerator"][entry.name]
        if value != entry.default and not {"accelerator", f"accelerator.{entry.name}"} & names:
            OmegaConf.update(config, f"accelerator.{entry.name}", value)
