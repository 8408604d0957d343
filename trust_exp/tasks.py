"""The tasks that data sets, models, methods and evals are for. No torch."""

from typing import Literal

Task = Literal["classification", "segmentation", "detection", "anomaly"]

TASKS: dict[Task, str] = {  # a phrase for the labels of each
    "classification": "a class for each image",
    "segmentation": "a class for each pixel",
    "detection": "boxes",
    "anomaly": "one normal class",
}
