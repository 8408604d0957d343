"""Temporal ensembling: running means of predictions, the pull towards them, and when it acts."""

import math

import pytest
import torch
from torch import nn

from trust_exp.errors import UserError
from trust_exp.methods.adversarial.config import EnsemblingConfig
from trust_exp.methods.adversarial.core import distance_to_mean, ramp
from trust_exp.methods.adversarial.ensembling import TemporalEnsemble

INDEX = torch.tensor([3, 10, 11, 40])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def begun(config: EnsemblingConfig) -> TemporalEnsemble:
    ensemble = TemporalEnsemble(config)
    ensemble.begin(INDEX, classes=3, steps=10)
    return ensemble


def test_the_weight_grows_from_start_to_end():
    assert ramp(0.39, 0.4, 0.8) == 0
    assert ramp(0.4, 0.4, 0.8) == pytest.approx(math.exp(-5))
    assert ramp(0.6, 0.4, 0.8) == pytest.approx(math.exp(-5 / 4))
    assert ramp(0.8, 0.4, 0.8) == ramp(1.0, 0.4, 0.8) == 1


def test_the_penalty_is_the_squared_distance_to_the_mean_of_what_was_predicted(model):
    ensemble = begun(EnsemblingConfig(weight=7, momentum=0.8, start=0, end=0.5))
    means = {}
    for step in range(8):
        index = INDEX[torch.tensor([[1, 3], [0, 2], [3, 0]][step % 3])]
        clean, attacked = torch.randn(2, 5), torch.randn(2, 3, requires_grad=True)
        found = ensemble.penalty(model, step, index, clean, attacked)
        predicted = model.eval()(clean).softmax(1).detach()
        model.train()
        for row, sample in enumerate(index.tolist()):
            means[sample] = 0.8 * means.get(sample, torch.zeros(3)) + 0.2 * predicted[row]
            target = means[sample] / means[sample].sum()
            weight = 7 * math.exp(-5 * max(0, 1 - step / 5) ** 2)
            torch.testing.assert_close(found[row], weight * ((attacked[row].softmax(0) - target) ** 2).sum())
        found.sum().backward()
        assert attacked.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters()), "the clean prediction is a target"
    assert model[1].num_batches_tracked == 0, "nor are its statistics those of a training step"


def test_nothing_is_predicted_before_it_begins(model):
    ensemble = begun(EnsemblingConfig(start=0.5, end=0.9))
    broken = nn.Sequential()
    assert ensemble.penalty(broken, 4, INDEX[:2], torch.randn(2, 5), torch.randn(2, 3)).tolist() == [0, 0]
    assert not ensemble.mean.any()
    assert len(ensemble.penalty(model, 9, INDEX[:0], torch.randn(0, 5), torch.randn(0, 3))) == 0


def test_a_mean_that_agrees_costs_nothing():
    logits = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(distance_to_mean(logits, 0.1 * logits.softmax(1)), torch.zeros(4).double())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 0}, "method.ensembling.weight must be greater than 0"),
        ({"momentum": 1.0}, "method.ensembling.momentum must be at most"),
        ({"start": 0.8}, "method.ensembling.end must be greater than 0.8"),
        ({"end": 1.2}, "method.ensembling.end must be at most 1"),
    ],
)
def test_values_out_of_range_are_named(given, message):
    with pytest.raises(UserError, match=message):
        EnsemblingConfig(**given)
