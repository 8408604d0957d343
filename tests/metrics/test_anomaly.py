"""AUROC, average precision, F1 and AUPRO, against scikit-learn, torchmetrics and a loop over thresholds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from trust_exp.metrics.anomaly import MEASURES, aupro, auroc, average_precision, best_f1, ranked, regions_of, resampled

SCORES = st.lists(
    st.tuples(st.sampled_from([-3.0, 0.0, 0.5, 1.0, 1e-300, 7e5, math.inf]) | st.floats(-5, 5), st.booleans()),
    min_size=2,
    max_size=40,
).filter(lambda pairs: len({kind for _, kind in pairs}) == 2)


def split(pairs):
    return torch.tensor([one for one, _ in pairs], dtype=torch.float64), torch.tensor([kind for _, kind in pairs])


@given(SCORES)
def test_values_are_those_of_scikit_learn(pairs):
    score, anomalous = split(pairs)
    places = torch.unique(score, return_inverse=True)[1]  # scikit-learn takes no infinity; only the order counts
    counts = ranked(score, anomalous)
    assert auroc(counts).item() == pytest.approx(roc_auc_score(anomalous, places), abs=1e-12)
    assert average_precision(counts).item() == pytest.approx(average_precision_score(anomalous, places), abs=1e-12)
    best = max(f1_score(anomalous, places >= threshold) for threshold in places.unique())
    assert best_f1(counts).item() == pytest.approx(best, abs=1e-12)


def test_values_are_those_of_torchmetrics():
    score = torch.rand(500).round(decimals=2)
    anomalous = torch.rand(500) < score
    counts = ranked(score, anomalous)
    assert auroc(counts).item() == pytest.approx(binary_auroc(score, anomalous.long()).item(), abs=1e-6)
    wanted = binary_average_precision(score, anomalous.long()).item()
    assert average_precision(counts).item() == pytest.approx(wanted, abs=1e-6)


def test_scores_of_any_size_keep_their_order():
    """torchmetrics would put them through a sigmoid: all are 1 in float32."""
    score, anomalous = torch.tensor([100.0, 200.0, 300.0, 400.0]), torch.tensor([False, True, False, True])
    assert auroc(ranked(score, anomalous)).item() == 0.75
    assert binary_auroc(score, anomalous.long()).item() == 0.5


def test_a_weight_is_a_number_of_copies():
    score, anomalous = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0]), torch.tensor([True, False, True, False, False])
    weight = torch.tensor([[2, 1, 0, 3, 1], [1, 1, 1, 1, 1]])
    counts = ranked(score, anomalous, weight)
    for row, own in enumerate(weight):
        copies = torch.arange(5).repeat_interleave(own)
        alone = ranked(score[copies], anomalous[copies])
        for measure in MEASURES.values():
            assert measure(counts)[row].item() == pytest.approx(measure(alone).item(), abs=1e-12)


def test_without_one_of_the_two_kinds_there_is_nothing_to_measure():
    score = torch.tensor([1.0, 2.0])
    normal, anomalous = (ranked(score, torch.full((2,), kind)) for kind in (False, True))
    assert all(math.isnan(measure(normal).item()) for measure in MEASURES.values())
    assert math.isnan(auroc(anomalous).item())
    assert average_precision(anomalous).item() == best_f1(anomalous).item() == 1


def test_nan_is_no_score():
    with pytest.raises(ValueError, match="nan"):
        ranked(torch.tensor([1.0, math.nan]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="nan"):
        aupro(torch.full((1, 2, 2), math.nan), torch.eye(2, dtype=torch.bool)[None])


def test_resamples_are_those_of_a_bootstrap_that_sorts_each_time():
    draw = np.random.default_rng(0)
    anomalous = np.arange(120) < 50
    score = anomalous + draw.normal(size=(2, 120))
    kinds = torch.from_numpy(anomalous)
    found = resampled(
        torch.from_numpy(score.T), kinds[:, None].expand(-1, 2), kinds.long(), torch.Generator().manual_seed(0)
    )
    slow = []
    for _ in range(1000):
        at = np.concatenate([draw.choice(np.flatnonzero(kind), kind.sum()) for kind in (anomalous, ~anomalous)])
        slow.append((roc_auc_score(anomalous[at], score[1, at]), average_precision_score(anomalous[at], score[1, at])))
    for name, values in zip(("auroc", "average_precision"), np.array(slow).T, strict=True):
        own = found[name][:, 1].numpy()
        assert np.quantile(own, [0.025, 0.975]) == pytest.approx(
            np.quantile(values, [0.025, 0.975]), abs=values.std() / 3
        )
    assert found["f1_max"].shape == (1000, 2)
    assert 0 < found["f1_max"].min() < found["f1_max"].max() <= 1


def test_chunks_change_no_resample(monkeypatch):
    score, anomalous = torch.randn(30, 1), (torch.arange(30) < 12)[:, None]
    given = (score, anomalous, torch.arange(30) % 3)
    whole = resampled(*given, torch.Generator().manual_seed(3), 50)
    monkeypatch.setattr("trust_exp.metrics.anomaly.CHUNK", 30)
    parts = resampled(*given, torch.Generator().manual_seed(3), 50)
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, equal_nan=True)


def slow_aupro(score, mask, most, steps=4000):
    """A loop over thresholds, with the overlap of each region and the rate counted anew."""
    regions = [
        (place, numbered == number)
        for place, own in enumerate(mask)
        for numbered, count in [label(own, np.ones((3, 3)))]
        for number in range(1, count + 1)
    ]
    points = [(0.0, 0.0)]
    for threshold in np.unique(score)[::-1]:
        above = score >= threshold
        rate = (above & ~mask).sum() / (~mask).sum()
        points.append((rate, np.mean([above[place][region].mean() for place, region in regions])))
    rates, overlaps = np.array(points).T
    grid = np.linspace(0, most, steps)
    curve = [overlaps[rates <= x].max() if (rates <= x).any() else 0 for x in grid]
    return np.trapezoid(curve, grid) / most


@pytest.mark.parametrize("most", [0.3, 1.0])
def test_aupro_is_that_of_a_loop_over_thresholds(most):
    draw = np.random.default_rng(1)
    mask = np.zeros((3, 14, 16), bool)
    mask[0, 2:6, 3:9] = mask[0, 10:12, 1:3] = mask[2, 4:5, 4:12] = True
    score = draw.normal(size=mask.shape) + 1.5 * mask
    found = aupro(torch.from_numpy(score), torch.from_numpy(mask), most)
    assert found == pytest.approx(slow_aupro(score, mask, most), abs=2 / 600)  # one normal pixel is 1 / 620 of the rate


def test_aupro_counts_regions_and_not_pixels():
    """A large region that is found and a small one that is not: the mean over regions is a half."""
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, :6, :6] = mask[0, 10, 10] = True
    score = torch.where(mask, 0.0, 1.0)
    score[0, :6, :6] = 2.0
    assert aupro(score, mask) == pytest.approx(0.5)
    score[0, 10, 10] = 2.0
    assert aupro(score, mask) == pytest.approx(1.0)
    assert aupro(-score, mask) == pytest.approx(0.0)


def test_aupro_interpolates_where_scores_are_equal():
    """All scores are equal: one step from (0, 0) to (1, 1), of which the part to 0.3 has the mean 0.15."""
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert aupro(torch.zeros(1, 10, 10), mask) == pytest.approx(0.15)


def test_pixels_that_touch_at_a_corner_are_of_one_region():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 3, 3] = mask[1, 0, 0] = True
    regions, number = regions_of(mask)
    assert number == 3
    assert regions[0, 0, 0] == regions[0, 1, 1] != regions[0, 3, 3] != regions[1, 0, 0]
    assert (regions > 0).equal(mask)


def test_without_defects_there_is_no_aupro():
    assert math.isnan(aupro(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool)))
    assert math.isnan(aupro(torch.zeros(1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)))
