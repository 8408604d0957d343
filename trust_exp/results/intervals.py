"""95 % confidence intervals: of a fraction, and of any statistic of samples. Imports no torch.

Import it where an interval is computed: scipy.stats takes a second, and what lists and prints must start at once.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

LEVEL = 0.95
RESAMPLES = 10_000
PLACES_AT_ONCE = 2**20  # of a bootstrap, 8 MB

Interval = tuple[float, float]


def wilson(hits: int, n: int) -> Interval:
    """Interval of the fraction hits / n, with 0 <= hits <= n and n > 0.

    Source: Wilson 1927, without continuity correction.
    """
    found = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def bootstrap(
    statistic: Callable[[np.ndarray], ArrayLike], n: int, name: str, resamples: int = RESAMPLES
) -> Interval | None:
    """Percentile interval of a statistic of n samples, over resamples of these with replacement.

    Args:
        statistic: maps the places of samples, int64 [R, n], to the statistic of each of the R resamples, [R]. A
            resample of which it is not defined is nan and does not count (an AUROC of one class).
        n: how many samples there are.
        name: of the metric; the same name draws the same resamples.
        resamples: how many; fewer where the statistic takes long.

    Returns:
        None for fewer than two samples, or if the statistic of a resample is infinite or of none is defined.

    Source: Efron and Tibshirani 1993, sec. 13.3.
    """
    if n < 2:
        return None
    draw = _generator(name)
    at_once = max(1, PLACES_AT_ONCE // n)
    sizes = [min(at_once, resamples - begin) for begin in range(0, resamples, at_once)]
    found = np.concatenate([np.asarray(statistic(draw.integers(n, size=(size, n))), np.float64) for size in sizes])
    defined = found[~np.isnan(found)]
    if not len(defined) or np.isinf(defined).any():
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap_mean(values: np.ndarray, name: str) -> Interval | None:
    """Percentile interval of the mean of values, float64 [N]; see ``bootstrap``."""
    return bootstrap(lambda places: values[places].mean(1), len(values), name)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
