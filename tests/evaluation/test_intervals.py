"""Intervals: against published values, an independent implementation, and their promised coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.evaluation import intervals


def test_wilson_agrees_with_scipy() -> None:
    for n in (1, 7, 50, 400):
        for k in {0, 1, n // 3, n}:
            expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
            assert intervals.wilson(k, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [20, 50, 100, 400])
def test_wilson_covers_95_percent_on_average(n: int) -> None:
    """Exact, not drawn: the probability of each k times whether its interval holds p, averaged over p."""
    k = np.arange(n + 1)
    ends = np.array([intervals.wilson(float(i), n, 0.95) for i in k])
    cover = []
    for p in np.linspace(0.05, 0.95, 181):
        inside = (ends[:, 0] <= p) & (p <= ends[:, 1])
        cover.append(stats.binom.pmf(k, n, p)[inside].sum())
    assert 0.94 <= np.mean(cover) <= 0.965


def test_clopper_pearson_agrees_with_scipy_and_never_covers_less_than_promised() -> None:
    for n in (5, 29, 123):
        bounds = np.array([intervals.clopper_pearson_lower(k, n) for k in range(n + 1)])
        expected = [
            stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, method="exact").low for k in range(n + 1)
        ]
        np.testing.assert_allclose(bounds, expected, atol=1e-12)
        for p in np.linspace(0.02, 0.99, 98):
            assert stats.binom.pmf(np.arange(n + 1), n, p)[bounds <= p].sum() >= 0.95 - 1e-12


def test_jeffreys_macro_covers() -> None:
    random = np.random.default_rng(1)
    recalls, totals = np.array([0.9, 0.7, 0.95]), np.array([40, 200, 30])
    hits = 0
    for _ in range(400):
        low, high = intervals.jeffreys_macro(random.binomial(totals, recalls).tolist(), totals.tolist(), 0.95)
        hits += low <= recalls.mean() <= high
    assert 0.92 <= hits / 400 <= 0.985


def test_nothing_measured_is_nan() -> None:
    assert all(math.isnan(end) for end in intervals.wilson(0, 0, 0.95))
    assert all(math.isnan(end) for end in intervals.jeffreys_macro([3, 0], [5, 0], 0.95))
    assert math.isnan(intervals.clopper_pearson_lower(0, 0))


def test_intervals_are_the_same_every_time() -> None:
    rows = [np.arange(30), np.arange(30, 50)]
    first = intervals.bootstrap(rows, lambda chosen: float(chosen.mean()), 0.95)
    assert first == intervals.bootstrap(rows, lambda chosen: float(chosen.mean()), 0.95)
