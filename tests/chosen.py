"""Choices that tests make by what schemas say, so that a method or data set comes and goes without an edit here."""

from trust_exp import choices
from trust_exp.data.config import PreparedConfig
from trust_exp.models.config import SourceConfig
from trust_exp.tasks import task_of

# a small network that keeps places to its head, as some methods need of what they build on
SMALL_NETWORK = "model=cifar_resnet20,model.depth=8,model.mean=null,model.std=null"


def builds_on_a_run(method: str) -> bool:
    """Whether its own model is that of another run."""
    own = f"for/{method}/any"
    schema = choices.read_choice("model", own).schema if choices.exists("model", own) else None
    return schema is not None and issubclass(schema, SourceConfig)


def plain_method() -> str:
    """A method that trains any classifier: ordinary training where it is there."""
    names = ["standard"] if choices.exists("method", "standard") else []
    for name in (*names, *choices.names("method")):
        choice = choices.read_choice("method", name)
        needs = set(getattr(choice.schema, "needs", ())) - {"logits"}
        tasks = {"classification", "any"} & set(getattr(choice.schema, "tasks", ()))
        if choice.values["fit"] == "gradient" and tasks and not needs and not builds_on_a_run(name):
            return name
    raise LookupError("no method trains a plain classifier")


def method_for(model: str) -> list[str]:
    """The overrides that choose a method which trains a model: a plain one, or one for one normal class."""
    schema = choices.read_choice("model", model).schema
    if set(getattr(schema, "tasks", ())) != {"anomaly"}:
        return [f"method={plain_method()}"]
    for name in filter(finds_anomalies, choices.names("method")):
        if set(getattr(choices.read_choice("method", name).schema, "needs", ())) <= set(schema.gives):
            return [f"method={name}", "dataset.normal_class=0"]
    raise LookupError(f"no method is for model={model}")


def source_for(method: str, network: str = "", dataset: str = "digits") -> list[str]:
    """The overrides that a method needs that builds on a run; none for others."""
    source = ",".join(filter(None, (f"method={plain_method()}", f"dataset={dataset}", network)))
    return [f"source='[{source}]'"] if builds_on_a_run(method) else []


def finds_anomalies(method: str) -> bool:
    """Whether a method is for one normal class and for nothing else."""
    return set(getattr(choices.read_choice("method", method).schema, "tasks", ())) == {"anomaly"}


def normal_class_for(method: str, dataset: str) -> list[str]:
    """The override that makes one class of a data set normal, for a method that needs it; none for others."""
    classified = task_of(choices.read_choice("dataset", dataset).values) == "classification"
    return ["dataset.normal_class=0"] if finds_anomalies(method) and classified else []


def embedded_data_for(method: str) -> list[str]:
    """The overrides that choose a data set of the method's task that is there without any file."""
    if finds_anomalies(method):
        return ["dataset=digits", *normal_class_for(method, "digits")]
    tasks = set(getattr(choices.read_choice("method", method).schema, "tasks", ()))
    for name in dict.fromkeys(("digits", "street_scenes", *choices.names("dataset"))):
        choice = choices.read_choice("dataset", name) if choices.exists("dataset", name) else None
        if choice is None or choice.schema is None or "made_of" in choice.values:
            continue
        if not issubclass(choice.schema, PreparedConfig) and {choice.values["task"], "any"} & tasks:
            return [f"dataset={name}"]
    raise LookupError(f"no embedded data set is for method={method}")
