"""The tasks that data sets, models, methods and evals are for. Imports nothing else of the package."""

from collections.abc import Mapping
from typing import Any, Literal

Task = Literal["classification", "segmentation", "detection", "anomaly"]

TASKS: dict[Task, str] = {  # a phrase for the labels of each
    "classification": "a class for each image",
    "segmentation": "a class for each pixel",
    "detection": "boxes",
    "anomaly": "one normal class",
}


def task_of(dataset: Mapping[str, Any]) -> str | None:
    """The task that values of a data set's configuration set; None if they set none."""
    if dataset.get("normal_class") not in (None, "null"):
        return "anomaly"
    return dataset.get("task")
