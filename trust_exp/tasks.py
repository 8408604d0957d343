"""The tasks that data can set: the kinds of labels that there are. Imports nothing else of ours."""

from collections.abc import Mapping
from typing import Any

TASKS = {
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
