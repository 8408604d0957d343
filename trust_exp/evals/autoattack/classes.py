"""Robust accuracy of groups of classes and of each class, from one attack of a test set (Losch 2024, ch. 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trust_exp.evals.suite import Context, Outcomes
from trust_exp.results.record import Row, fraction
from trust_exp.viz.classes import draw_class_accuracies


def robustness_rows(found: Outcomes, classes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """Clean and robust accuracy and the attack defense rate: on all images, of each group of classes, of each class.

    The robust accuracy on all images is ``autoattack/accuracy``.
    The defense rate is the fraction of the correctly classified images that no attack breaks; a set without any has
    none.

    Args:
        found: ``correct`` bool [N], ``survived`` bool [N, attacks], ``label`` int64 [N].
        classes: names of the labels.
        groups: letter of a group -> names of its classes, see ``Method.class_groups``.

    Source: Losch 2024, sec. 3.3.1 and A.4.
    """
    label = found["label"]
    rows = _rates(found, torch.ones_like(label, dtype=torch.bool), "robust/{}")[1:]
    for letter, names in groups.items():
        numbers = torch.tensor([classes.index(name) for name in names], dtype=torch.int64)
        rows += _rates(found, torch.isin(label, numbers), f"robust/{{}}_{letter}")
    for number, name in enumerate(classes):
        rows += _rates(found, label == number, "robust/class_{}", **{"class": name})
    return rows


def _rates(found: Outcomes, chosen: Tensor, name: str, **detail: Any) -> list[Row]:
    """Robust and clean accuracy of the chosen samples (bool [N]), and their defense rate."""
    n, correct = int(chosen.sum()), int(found["correct"][chosen].sum())
    robust = int(found["survived"][chosen, -1].sum())
    rows = []
    if n:
        rows += [
            fraction(name.format("accuracy"), robust, n, **detail),
            fraction(name.format("clean_accuracy"), correct, n, **detail),
        ]
    if correct:
        rows.append(fraction(name.format("defense_rate"), robust, correct, **detail))
    return rows


def draw_classes(context: Context, found: Outcomes, how: str) -> Path:
    """Figure of the clean and robust accuracy of each class; those of the first group stand out."""
    classes = context.info.classes
    first = next(iter(context.groups.values()), ())
    label = found["label"]
    present = [number for number in range(len(classes)) if (label == number).any()]
    return draw_class_accuracies(
        context.figure("class_accuracies"),
        [classes[number] for number in present],
        [found["correct"][label == number].double().mean().item() for number in present],
        [found["survived"][label == number, -1].double().mean().item() for number in present],
        [classes[number] in first for number in present],
        f"{context.method} on {context.info.name}: {how}",
    )
