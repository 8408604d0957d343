"""What attacks share of their arguments."""

import pytest
import torch
from torch import nn

from trust_exp.attacks.arguments import check_labels, check_per_image, under_attack


def test_what_an_attack_gets():
    model, x, y = nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    with under_attack(model, x, y, 0.25) as (ball, label, names, seed):
        assert not model[1].training
        assert (ball.norm, ball.domain, seed) == ("Linf", (0.0, 1.0), 0)
        assert torch.equal(ball.center, x)
        assert ball.radius.flatten().tolist() == [0.25] * 4
        assert names.tolist() == [0, 1, 2, 3]
        label[0] = 7
    assert y[0] == 0, "labels are copied"
    assert model[1].training
    index = torch.tensor([5, 5, 2, 9])
    with under_attack(model, x, y, 0.25, norm="L2", domain=None, seed=3, index=index) as (ball, _, names, seed):
        assert (ball.norm, ball.domain, seed) == ("L2", None, 3)
        assert torch.equal(names, index)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"y must be int64 of shape \[2\]; got torch.int64 \[3\]"),
        ({"y": torch.zeros(2)}, r"y must be int64 of shape \[2\]; got torch.float32 \[2\]"),
        (
            {"index": torch.zeros(2, 1, dtype=torch.int64)},
            r"index must be int64 of shape \[2\]; got torch.int64 \[2, 1\]",
        ),
        ({"index": torch.zeros(2)}, r"index must be int64 of shape \[2\]; got torch.float32 \[2\]"),
        ({"norm": "L1"}, "norm must be one of L2, Linf; got 'L1'"),
    ],
)
def test_refusals(given, message):
    arguments = {"x": torch.zeros(2, 3), "y": torch.zeros(2, dtype=torch.int64), "epsilon": 0.1} | given
    with pytest.raises(ValueError, match=message), under_attack(nn.Linear(3, 2), **arguments):
        pass


def test_one_value_of_the_type_for_each_image_is_right():
    check_per_image("skip", torch.zeros(2, dtype=torch.bool), torch.zeros(2, 3), torch.bool)


@pytest.mark.parametrize("labels", [[], [0], [0, 4, 2], [4] * 9])
def test_labels_of_the_classes_are_right(labels):
    check_labels(torch.tensor(labels, dtype=torch.int64), torch.zeros(len(labels), 5))


@pytest.mark.parametrize(("labels", "said"), [([0, 5], "0 to 5"), ([5] * 9, "5 to 5"), ([-1, 4], "-1 to 4")])
def test_labels_of_other_classes_are_refused(labels, said):
    with pytest.raises(ValueError, match=f"y must be labels from 0 to 4; got {said}"):
        check_labels(torch.tensor(labels), torch.zeros(len(labels), 5))
