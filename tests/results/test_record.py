"""Rows of result.json: fractions, means and differences with their 95 % intervals."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from trust_exp.results import intervals
from trust_exp.results.intervals import RESAMPLES, bootstrap
from trust_exp.results.record import Row, fraction, is_measured, mean, mean_difference


def closed_form(hits, n):
    """Wilson's interval as it is printed: the ends of (p - hits / n)^2 <= z^2 p (1 - p) / n."""
    z, share = 1.959964, hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def samples(n, key=0):
    return np.random.default_rng(key).exponential(size=n)


# --- fractions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 10), (8, 10), (10, 10), (37, 120), (9_999, 10_000)])
def test_the_interval_of_a_fraction_is_wilsons(hits, n):
    row = fraction("m", hits, n, how="so")
    assert (row.value, row.unit, row.n, row.detail) == (hits / n, "fraction", n, {"how": "so"})
    assert row.interval == pytest.approx(closed_form(hits, n), abs=1e-6)
    assert 0 <= row.interval[0] <= row.value <= row.interval[1] <= 1


def test_a_fraction_of_no_samples_is_nan():
    row = fraction("m", 0, 0)
    assert (math.isnan(row.value), row.n, row.interval) == (True, 0, None)


@pytest.mark.parametrize(("hits", "n"), [(5, 0), (6, 5), (-1, 5), (0, -1), (-2, -1)])
def test_a_fraction_that_cannot_be_is_one_sentence(hits, n):
    with pytest.raises(ValueError, match=f"m needs 0 <= hits <= n; got {hits} hits of {n} samples"):
        fraction("m", hits, n)


def test_nan_is_not_measured_and_inf_is():
    assert [is_measured(value) for value in (0, 1.5, math.inf, math.nan, None)] == [True, True, True, False, False]


# --- means ----------------------------------------------------------------------------------------------------------


def agrees(found, wanted, values):
    """Ends that differ by no more than two bootstraps of 10,000 resamples do: a tenth of the standard error."""
    return found == pytest.approx(wanted, abs=0.1 * values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("n", [2, 20, 500])
def test_the_interval_of_a_mean_is_that_of_scipy(n):
    values = samples(n)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=RESAMPLES, random_state=3)
    row = mean("m", values, "seconds", how="so")
    assert (row.value, row.unit, row.n, row.detail) == (pytest.approx(values.mean()), "seconds", n, {"how": "so"})
    assert agrees(row.interval, tuple(wanted.confidence_interval), values)


def test_the_interval_of_a_difference_is_paired():
    first = samples(80)
    second = first + 0.1 * samples(80, key=1)

    def difference(one, other, axis=-1):
        return one.mean(axis) - other.mean(axis)

    wanted = stats.bootstrap(
        (first, second), difference, paired=True, method="percentile", n_resamples=RESAMPLES, random_state=3
    )
    row = mean_difference("m", first, second, "probability")
    assert row.value == pytest.approx(first.mean() - second.mean())
    assert row.n == 80
    assert agrees(row.interval, tuple(wanted.confidence_interval), first - second)
    assert row.interval[1] < 0, "the difference is certain, though each mean alone is not"
    assert mean("m", first, "s").interval[1] > mean("m", second, "s").interval[0]


def test_intervals_of_means_cover_as_often_as_they_say():
    draw = np.random.default_rng(0)
    trials = [mean("m", draw.normal(3.0, size=40), "s").interval for _ in range(400)]
    covered = sum(low <= 3.0 <= high for low, high in trials)
    assert 0.91 * 400 <= covered <= 0.97 * 400  # at n = 40 the percentile interval is a little short of 95 %


def test_the_same_metric_has_the_same_interval_whatever_was_computed_before():
    first = mean("m", samples(30), "s")
    np.random.default_rng().random()
    np.random.seed(1)  # noqa: NPY002  that nothing here draws from the shared generator
    assert mean("m", samples(30), "s") == first
    assert mean("other", samples(30), "s").interval != first.interval


@pytest.mark.parametrize(
    ("values", "value"), [([], math.nan), ([2.0], 2.0), ([1.0, math.nan], math.nan), ([1.0, math.inf], math.inf)]
)
def test_what_has_no_spread_to_resample_has_no_interval(values, value):
    row = mean("m", values, "s")
    assert row == Row("m", pytest.approx(value, nan_ok=True), "s", len(values))


def test_equal_values_have_an_interval_of_no_length():
    assert mean("m", [0.25] * 5, "s").interval == (0.25, 0.25)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mean("m", [[1.0, 2.0]], "s"), r"m needs one value a sample, \[N\]; got values of shape \[1, 2\]"),
        (lambda: mean_difference("m", [1.0, 2.0], [1.0], "s"), "m compares the same samples; got shapes"),
    ],
)
def test_values_that_are_not_one_a_sample_are_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# --- any statistic --------------------------------------------------------------------------------------------------


def test_the_interval_of_an_auroc_is_that_of_scipy():
    draw = np.random.default_rng(0)
    label = draw.integers(2, size=60)
    score = label + draw.normal(size=60)

    def auroc(one, other):
        return roc_auc_score(one, other)

    found = bootstrap(lambda places: [auroc(label[at], score[at]) for at in places], 60, "m", resamples=500)
    wanted = stats.bootstrap(
        (label, score), auroc, paired=True, vectorized=False, method="percentile", n_resamples=500, random_state=3
    )
    assert found == pytest.approx(tuple(wanted.confidence_interval), abs=0.3 * wanted.standard_error)
    assert found[0] < auroc(label, score) < found[1]


def test_resamples_of_which_a_statistic_is_not_defined_do_not_count():
    values = np.array([math.nan, 1.0, 2.0])
    low, high = bootstrap(lambda places: values[places].mean(1), 3, "m")
    assert (low, high) == (1.0, 2.0), "those without the first sample"
    assert bootstrap(lambda places: np.full(len(places), math.nan), 3, "m") is None
    assert bootstrap(lambda places: np.full(len(places), math.inf), 3, "m") is None


def test_the_memory_of_a_bootstrap_is_bounded(monkeypatch):
    asked = []

    def statistic(places):
        asked.append(places)
        return places.mean(1)

    whole = bootstrap(statistic, 7, "m", resamples=100)
    assert [len(places) for places in asked] == [100]
    asked.clear()
    monkeypatch.setattr(intervals, "PLACES_AT_ONCE", 150)
    assert bootstrap(statistic, 7, "m", resamples=100) == whole
    assert [places.shape for places in asked] == [(21, 7)] * 4 + [(16, 7)]
    monkeypatch.setattr(intervals, "PLACES_AT_ONCE", 1)
    assert bootstrap(statistic, 7, "m", resamples=100) == whole
