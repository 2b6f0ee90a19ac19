"""Two-sided confidence intervals, and the one-sided bound of the threshold rule.

Proportions: Wilson. Means of proportions: Jeffreys draws. Paired differences: Tango. Anything else: a seeded bootstrap
that resamples pictures within each true class, or whole groups where there are groups, which then are the independent
unit. A bootstrap sees no error it has not seen (three perfect groups would give [1, 1]), so those of rates are
never narrower than Wilson's on as many units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

from tasks.evaluation.metrics import Floats, Ints, Metric

Interval = tuple[float, float]
Statistic = Callable[[Floats], Floats]
DRAWS = 4000
RESAMPLES = 1000
SEED = 20_240_501  # any fixed number: the same evaluation always gives the same interval
UNKNOWN: Interval = (float("nan"), float("nan"))
_CELLS = 20_000_000  # of confusion matrices held at once
_WEIGHTS = 1_000_000  # of rows in draws held at once: 8 MB, of which a statistic makes several
_MANY_CLASSES = 150  # above, a fifth of the resamples: their ends vary a little more, and it ends in time


def wilson(successes: float, n: float, confidence: float) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001). NaN for n = 0.

    >>> tuple(round(end, 4) for end in wilson(8, 10, 0.95))
    (0.4902, 0.9433)
    """
    if n <= 0:
        return UNKNOWN
    z = stats.norm.ppf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a proportion (Clopper & Pearson 1934); 0 for no success, NaN for n = 0."""
    if n == 0:
        return float("nan")
    return 0.0 if successes == 0 else float(stats.beta.ppf(1 - confidence, successes, n - successes + 1))


def jeffreys_macro(successes: Sequence[float], totals: Sequence[float], confidence: float) -> Interval:
    """Interval of a mean of independent proportions: seeded draws from their Jeffreys posteriors.

    The mean itself always lies in it, which is the posterior's only where some proportion is neither 0 nor 1: the
    modification of Brown, Cai & DasGupta (2001, section 4.1.2), by which all successes leave 1 possible.
    """
    if not len(totals) or min(totals) <= 0:
        return UNKNOWN
    random = np.random.default_rng(SEED)
    total = np.zeros(DRAWS)
    for k, n in zip(successes, totals, strict=True):
        # Jeffreys prior Beta(1/2, 1/2): posterior Beta(k + 1/2, n - k + 1/2)
        total += random.beta(k + 0.5, n - k + 0.5, DRAWS)
    low, high = _ends(total / len(totals), confidence)
    value = float(np.mean(np.divide(successes, totals)))
    return min(low, value), max(high, value)


def tango(gained: float, lost: float, n: float, confidence: float) -> Interval:
    """Score interval of a paired difference of proportions (Tango 1998, Statistics in Medicine 17: 891-908).

    `gained`: pairs where only the first is right; `lost`: where only the second is; the difference is their difference
    over n. Never of no width: without any discordant pair its ends are z^2 / (n + z^2) away.

    >>> tuple(round(end, 4) for end in tango(0, 0, 50, 0.95))
    (-0.0713, 0.0713)
    """
    if n <= 0:
        return UNKNOWN
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    value = (gained - lost) / n

    def distance(difference: float) -> float:
        """How many standard errors the counts lie from this true difference."""
        linear = (2 * n - gained + lost) * difference - gained - lost
        product = lost * difference * (1 - difference)  # 0 where nothing was lost
        q = (np.sqrt(max(0.0, linear * linear + 8 * n * product)) - linear) / (4 * n)
        spread = np.sqrt(max(1e-300, n * (2 * q + difference * (1 - difference))))
        return float((gained - lost - n * difference) / spread)

    low = -1.0 if value <= -1 else brentq(lambda d: distance(d) - z, -1 + 1e-12, value)
    high = 1.0 if value >= 1 else brentq(lambda d: distance(d) + z, value, 1 - 1e-12)
    return float(low), float(high)


def difference(first: float, ends: Interval, second: float, other_ends: Interval) -> Interval:
    """Interval of first - second, independent, from each one's own (MOVER: Newcombe 1998; Zou & Donner 2008)."""
    (low, high), (other_low, other_high) = ends, other_ends
    value = first - second
    return (
        value - float(np.hypot(first - low, other_high - second)),
        value + float(np.hypot(high - first, second - other_low)),
    )


def mean_of(values: Sequence[float], ends: Sequence[Interval]) -> Interval:
    """Interval of the mean of independent figures from each one's own (MOVER, as `difference`)."""
    value, count = float(np.mean(values)), len(values)
    below = np.sqrt(sum((v - low) ** 2 for v, (low, _) in zip(values, ends, strict=True))) / count
    above = np.sqrt(sum((high - v) ** 2 for v, (_, high) in zip(values, ends, strict=True))) / count
    return value - float(below), value + float(above)


def median_ends(values: npt.NDArray[np.float64], confidence: float) -> Interval:
    """Distribution-free interval of a median: the order statistics that the binomial names (Conover 1999)."""
    rank = int(stats.binom.ppf(0.5 - confidence / 2, len(values), 0.5)) if len(values) else 0
    if rank == 0:  # too few: even the extremes cover less
        return UNKNOWN
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[-rank])


def bootstrap_counts(confusion: Ints, metric: Metric, confidence: float) -> Interval:
    """Of a metric of counts: each true class's pictures are drawn again, which is one multinomial a row."""
    return _ends(np.concatenate([metric(drawn) for drawn in _resampled_counts(confusion)]), confidence)


def bootstrap_counts_by_class(confusion: Ints, metric: Metric, confidence: float) -> list[Interval]:
    """The same for a metric that gives one value a class."""
    values = np.concatenate([metric(drawn) for drawn in _resampled_counts(confusion)])
    return [_ends(column, confidence) for column in values.T]


def bootstrap(
    truth: Ints, groups: Ints | None, statistic: Statistic, confidence: float, cells: int = 0
) -> list[Interval]:
    """Of any `statistic`, one number or several. Rows are drawn again in each true class [N], or in whole groups [N].

    `statistic` takes weights float64 [D, N], how often each of D draws has each row, and gives [D] or [D, numbers].
    `cells`: how many values it holds for a draw, if more than N.
    """
    drawn, parts = _resampled(truth, groups), []
    while some := list(islice(drawn, max(1, _WEIGHTS // max(1, len(truth), cells)))):
        parts.append(statistic(np.stack(some).astype(np.float64)))
    values = np.concatenate(parts)
    return [_ends(column, confidence) for column in values.reshape(len(values), -1).T]


def group_numbers(units: Sequence[str]) -> Ints:
    """Each row's group as a number 0 ... G-1."""
    return np.unique(np.array(units, str), return_inverse=True)[1].astype(np.int64)


def widest(first: Interval, second: Interval) -> Interval:
    """The interval that covers both; NaN if either is."""
    return float(np.minimum(first[0], second[0])), float(np.maximum(first[1], second[1]))


def _resampled(truth: Ints, groups: Ints | None) -> Iterator[Ints]:
    """How often each row is drawn, int64 [N], for each resample."""
    random = np.random.default_rng(SEED)
    if groups is not None:
        count = int(groups.max()) + 1
        for _ in range(RESAMPLES):
            yield np.bincount(random.integers(0, count, count), minlength=count)[groups]
        return
    strata = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    for _ in range(RESAMPLES):
        rows = np.concatenate([stratum[random.integers(0, len(stratum), len(stratum))] for stratum in strata])
        yield np.bincount(rows, minlength=len(truth))


def _resampled_counts(confusion: Ints) -> Iterator[Ints]:
    """Stacks of confusion matrices [D, C, C]; drawn once for all metrics where they fit into memory together."""
    cells = len(confusion) ** 2
    resamples = RESAMPLES if len(confusion) <= _MANY_CLASSES else RESAMPLES // 5
    if resamples * cells <= _CELLS:
        yield _one_stack(confusion.astype(np.int64).tobytes(), len(confusion), resamples)
        return
    random, at_once = np.random.default_rng(SEED), max(1, _CELLS // cells)
    for start in range(0, resamples, at_once):
        yield _multinomials(confusion, min(at_once, resamples - start), random)


@lru_cache(maxsize=4)
def _one_stack(cells: bytes, classes: int, resamples: int) -> Ints:
    confusion = np.frombuffer(cells, np.int64).reshape(classes, classes)
    return _multinomials(confusion, resamples, np.random.default_rng(SEED))


def _multinomials(confusion: Ints, resamples: int, random: np.random.Generator) -> Ints:
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    drawn = [random.multinomial(n, row, resamples) for n, row in zip(totals, shares, strict=True)]
    return np.stack(drawn, axis=1).astype(np.int64)


def _ends(values: Floats, confidence: float) -> Interval:
    """Percentiles of the draws that are defined; NaN where fewer than nine in ten are."""
    defined = values[np.isfinite(values)]
    if len(defined) < 0.9 * len(values):
        return UNKNOWN
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
