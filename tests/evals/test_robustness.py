"""Rows of attacked classes, of the others and of each class, against counting by hand."""

import pytest
import torch
from PIL import Image

from trust_exp.evals.autoattack.classes import robustness_rows
from trust_exp.viz.classes import draw_class_accuracies

NAMES = ("cat", "dog", "car", "moon")


@pytest.fixture
def found():
    generator = torch.Generator().manual_seed(0)
    correct = torch.rand(300, generator=generator) < 0.7
    after_one = correct & (torch.rand(300, generator=generator) < 0.6)
    survived = torch.stack([after_one, after_one & (torch.rand(300, generator=generator) < 0.8)], 1)
    return {"correct": correct, "survived": survived, "label": torch.randint(0, 3, (300,), generator=generator)}


def counted(found, numbers):
    images = [
        (bool(right), bool(held))
        for right, held, label in zip(found["correct"], found["survived"][:, -1], found["label"], strict=True)
        if int(label) in numbers
    ]
    right = sum(right for right, _ in images)
    return {
        "accuracy": sum(held for _, held in images) / len(images),
        "clean_accuracy": right / len(images),
        "defense_rate": sum(held for _, held in images) / right,
    }


def test_all_attacked_and_other_classes(found):
    values = {
        row.metric: row.value
        for row in robustness_rows(found, NAMES, {"a": ["dog", "moon"], "b": ["cat", "car"]})
        if not row.detail
    }
    for name, numbers in (("", {0, 1, 2}), ("_a", {1}), ("_b", {0, 2})):
        for metric, value in counted(found, numbers).items():
            if (metric, name) != ("accuracy", ""):  # is autoattack/accuracy
                assert values.pop(f"robust/{metric}{name}") == pytest.approx(value)
    assert values == {}


def test_each_class_that_has_images(found):
    rows = [row for row in robustness_rows(found, NAMES, {}) if row.detail]
    assert {row.detail["class"] for row in rows} == {"cat", "dog", "car"}
    for row in rows:
        assert row.value == counted(found, {NAMES.index(row.detail["class"])})[row.metric.removeprefix("robust/class_")]


def test_examples_have_no_classes_in_a(found):
    assert not [row for row in robustness_rows(found, NAMES, {}) if row.metric.endswith(("_a", "_b"))]


def test_nothing_right_has_no_defense_rate(found):
    wrong = {**found, "correct": found["correct"] & False, "survived": found["survived"] & False}
    values = {
        row.metric: row.value for row in robustness_rows(wrong, NAMES, {"a": ["cat"], "b": ["dog", "car", "moon"]})
    }
    assert values["robust/accuracy_a"] == values["robust/clean_accuracy_b"] == 0
    assert not [name for name in values if "defense" in name]


@pytest.mark.parametrize("classes", [3, 120])
def test_a_figure_is_drawn(tmp_path, classes):
    values = [number / classes for number in range(classes)]
    names = [f"class {number}" for number in range(classes)]
    path = draw_class_accuracies(tmp_path / "a.png", names, values, values, [True] + [False] * (classes - 1), "t")
    assert min(Image.open(path).size) > 300
