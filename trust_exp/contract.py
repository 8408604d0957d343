"""Do data, model, method and evals fit? Each says in its schema what it is for, needs and gives; one table compares.

Schemas say it in class attributes: ``tasks`` are kinds of labels, ``needs`` and ``gives`` are names such as ``logits``
(docs/extending.md lists them). A data set's task is the value ``dataset.task``. Imports no torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from trust_exp import choices
from trust_exp.errors import UserError
from trust_exp.schema import find_schema
from trust_exp.tasks import TASKS, task_of

PHRASES: dict[str, str] = {
    **{str(task): phrase for task, phrase in TASKS.items()},
    "lipschitz": "layers with a known Lipschitz constant",
    "trained": "trained weights: source=<a run>, checkpoint=<a file of weights> or model.pretrained=true",
}
PLURALS = {"method": "methods", "model": "models", "dataset": "data sets", "eval": "evals"}
FOR_ANY = "any"  # among tasks: all of them


@dataclass(frozen=True)
class Part:
    """One choice of a run: what it is for, and what it needs and gives."""

    group: str
    name: str
    tasks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    one_normal: bool = False  # of classified data, one class is normal: dataset.normal_class

    def __str__(self) -> str:
        return f"{self.group}={self.name}"

    def is_for(self, task: str) -> bool:
        """True if it is for data of this task."""
        return task in self.tasks or FOR_ANY in self.tasks


def part(group: str, name: str, schema: type | None, values: Mapping[str, Any]) -> Part:
    """A choice as its schema describes it; a data set as its values describe it."""
    if group == "dataset":
        return Part(group, name, (str(task_of(values)),), one_normal=values.get("normal_class") not in (None, "null"))
    tasks, needs, gives = (tuple(getattr(schema, key, ())) for key in ("tasks", "needs", "gives"))
    return Part(group, name, tasks, needs, gives)


def part_of(group: str, node: Mapping[str, Any], name: str | None = None) -> Part:
    """The same of a checked node."""
    return part(group, name or str(node["name"]), find_schema(str(node["_schema_"])), node)


@cache
def offered(group: str) -> tuple[Part, ...]:
    """Every choice of a group that is whole by itself."""
    found = (choices.read_choice(group, name) for name in choices.names(group))
    return tuple(part(group, choice.name, choice.schema, choice.values) for choice in found if choice.schema)


def misfit(method: Part, model: Part, dataset: Part, has: Collection[str]) -> str:
    """Why method, model and data cannot make a run, in one sentence that names what would fit; empty if they can.

    Args:
        has: what is at hand besides what the model gives, such as ``trained``.
    """
    if not method.is_for(*dataset.tasks):
        return _other_task(
            method, "needs", dataset, [other for other in offered("dataset") if method.is_for(*other.tasks)]
        )
    brings_network = "network" in method.gives
    if brings_network and model.tasks:
        return f"{method} brings its own network; leave out {model}"
    if not brings_network and not model.is_for(*dataset.tasks):
        return _other_task(model, "gives", dataset, _models_for(method, dataset))
    if missing := _missing(method, {*model.gives, *has}):
        return _lacking(method, model, missing, _models_for(method, dataset))
    return ""


def _models_for(method: Part, dataset: Part) -> list[Part]:
    """The models that fit a method and data; any of them may have trained weights."""
    models = [other for other in offered("model") if other.is_for(*dataset.tasks)]
    return [other for other in models if not _missing(method, {*other.gives, "trained"})]


def misfit_of_eval(question: Part, method: Part, model: Part, dataset: Part) -> str:
    """Why an eval cannot be asked of a run, in one sentence that names what would fit; empty if it can."""
    (task,) = dataset.tasks
    if not question.is_for(task):
        return _other_task(question, "needs", dataset, [other for other in offered("eval") if other.is_for(task)])
    brings_network = "network" in method.gives
    missing = set(_missing(question, {*method.gives, *(() if brings_network else model.gives)}))
    if not missing:
        return ""
    models = [other for other in offered("model") if other.is_for(task) and missing <= set(other.gives)]
    by_model = brings_network and models  # another method would take a model that gives it
    methods = [
        other
        for other in offered("method")
        if other.is_for(task) and (missing <= set(other.gives) or (by_model and "network" not in other.gives))
    ]
    wanted = [name for name in question.needs if name in missing]
    if methods or brings_network:
        return _lacking(question, method, wanted, methods)
    return _lacking(question, model, wanted, models)


def _other_task(asker: Part, verb: str, dataset: Part, fitting: Collection[Part]) -> str:
    (task,) = dataset.tasks
    tasks = [each for each in asker.tasks if each != "anomaly" or "classification" not in asker.tasks]
    wanted = " or ".join(PHRASES[each] for each in tasks) or "nothing"
    if dataset.one_normal:
        return f"{asker} {verb} {wanted}; dataset.normal_class leaves {PHRASES[task]}; leave it out"
    if "anomaly" in asker.tasks and task == "classification" and verb == "needs":
        return f"{asker} needs {PHRASES['anomaly']}: dataset.normal_class=3, or =each for a model of each class"
    group = "dataset" if asker.group == "method" else asker.group
    return f"{asker} {verb} {wanted}; {dataset} has {PHRASES[task]}; {_list(group, fitting)}"


def _missing(asker: Part, given: Collection[str]) -> list[str]:
    return [name for name in asker.needs if name not in given]


def _lacking(asker: Part, holder: Part, missing: Collection[str], fitting: Collection[Part]) -> str:
    wanted = " and ".join(PHRASES.get(name, name) for name in missing)
    if "trained" in missing:
        return f"{asker} needs {wanted}"
    has = ", ".join(PHRASES.get(name, name) for name in holder.gives) or "none"
    return f"{asker} needs {wanted}; {holder} gives {has}; {_list(holder.group, fitting)}"


def _list(group: str, fitting: Collection[Part]) -> str:
    names = ", ".join(other.name for other in fitting)
    return f"{PLURALS[group]} that fit: {names or 'none yet'}"


def check_fit(checked: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, str]:
    """Compare all parts of a checked configuration; the evals to leave out, each with the reason.

    Args:
        network: the node of the network behind the model, which is another one where a run's network is taken.

    Raises:
        UserError: if method, model and data do not fit, or an eval that was asked for by its name does not.
    """
    method, dataset = part_of("method", checked["method"]), part_of("dataset", checked["dataset"])
    model = part_of("model", network)
    own = checked["model"]
    trained = checked["mode"] == "eval" or checked["checkpoint"] or own.get("pretrained") or own.get("source")
    if why := misfit(method, model, dataset, {"trained"} if trained else ()):
        raise UserError(why)
    left_out, given = {}, {*method.gives, *model.gives}
    for name, node in checked["eval"].items():
        data = dataset if node.get("data") is None else part_of("dataset", node["data"])
        schema: Any = find_schema(str(node["_schema_"]))
        if why := misfit_of_eval(part_of("eval", node, name), method, model, data) or schema.why_not(node, given):
            left_out[name] = why
    if left_out and not checked["usual_evals"]:
        rest = ",".join(name for name in checked["eval"] if name not in left_out)
        raise UserError(next(iter(left_out.values())) + (f"; choose eval=[{rest}]" if rest else ""))
    return left_out


def in_order(evals: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Chosen evals, those first that give outcomes which others come after; else as they were chosen."""
    schemas = {name: find_schema(str(node["_schema_"])) for name, node in evals.items()}
    left, ordered = dict(evals), {}
    while left:
        awaited = {name: {kind for other in left if other != name for kind in schemas[other].gives} for name in left}  # type: ignore[attr-defined]
        ready = [name for name in left if not awaited[name] & set(schemas[name].after)]  # type: ignore[attr-defined]
        first = (ready or list(left))[0]
        ordered[first] = left.pop(first)
    return ordered
