"""Two-sided confidence intervals, and the one-sided bound of the threshold rule.

With groups, the group is the independent unit: intervals resample groups, and are never narrower than
Wilson's on as many pictures as there are groups (a bootstrap sees no error it has not seen: three perfect groups
would give [1, 1]).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Interval = tuple[float, float]
DRAWS = 4000
SEED = 20_240_501  # any fixed number: the same evaluation always gives the same interval
_NONE = (float("nan"), float("nan"))


def wilson(successes: float, n: float, confidence: float) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001). NaN for n = 0.

    >>> tuple(round(end, 4) for end in wilson(8, 10, 0.95))
    (0.4902, 0.9433)
    """
    if n <= 0:
        return _NONE
    z = stats.norm.ppf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def jeffreys_macro(successes: Sequence[float], totals: Sequence[float], confidence: float) -> Interval:
    """Interval of a mean of independent proportions: seeded draws from their Jeffreys posteriors."""
    if not totals or min(totals) <= 0:
        return _NONE
    random = np.random.default_rng(SEED)
    # Jeffreys prior Beta(1/2, 1/2): posterior Beta(k + 1/2, n - k + 1/2)
    draws = [random.beta(k + 0.5, n - k + 0.5, DRAWS) for k, n in zip(successes, totals, strict=True)]
    return _ends(np.mean(draws, axis=0), confidence)


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a proportion (Clopper & Pearson 1934); 0 for no success, NaN for n = 0."""
    if n == 0:
        return float("nan")
    return 0.0 if successes == 0 else float(stats.beta.ppf(1 - confidence, successes, n - successes + 1))


def bootstrap(
    strata: Sequence[npt.NDArray[np.int64]], statistic: Callable[[npt.NDArray[np.int64]], float], confidence: float
) -> Interval:
    """Percentile bootstrap of `statistic(rows)`, resampling within each stratum of row numbers. Seeded."""
    random = np.random.default_rng(SEED)
    values = [
        statistic(np.concatenate([rows[random.integers(0, len(rows), len(rows))] for rows in strata if len(rows)]))
        for _ in range(DRAWS // 4)
    ]
    return _ends(np.array(values), confidence)


def group_bootstrap(
    groups: Sequence[npt.NDArray[np.int64]], statistic: Callable[[npt.NDArray[np.int64]], float], confidence: float
) -> Interval:
    """Percentile bootstrap of `statistic(rows)`, resampling whole groups of row numbers. Seeded."""
    random = np.random.default_rng(SEED)
    values = [
        statistic(np.concatenate([groups[i] for i in random.integers(0, len(groups), len(groups))]))
        for _ in range(DRAWS // 4)
    ]
    return _ends(np.array(values), confidence)


def widest(first: Interval, second: Interval) -> Interval:
    """The interval that covers both."""
    return min(first[0], second[0]), max(first[1], second[1])


def _ends(values: npt.NDArray[np.float64], confidence: float) -> Interval:
    """Percentiles of the draws that are defined; NaN where fewer than nine in ten are."""
    defined = values[np.isfinite(values)]
    if len(defined) < 0.9 * len(values):
        return _NONE
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
