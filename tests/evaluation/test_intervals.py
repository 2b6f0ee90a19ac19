"""Intervals: against published values and independent implementations, and their promised coverage, exact and drawn.

Coverage of a discrete interval is exact where every outcome can be listed: the probability of each outcome times
whether its interval holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats

from tasks.evaluation import intervals
from tasks.evaluation.intervals import UNKNOWN, Interval
from tasks.evaluation.metrics import (
    BY_CLASS,
    OVERALL,
    Floats,
    Ints,
    accuracy,
    confusion_matrices,
    macro,
    recall_by_class,
)

NAN = math.nan
Z = float(stats.norm.ppf(0.975))
RATES = np.linspace(0.05, 0.95, 181)


def unknown(interval: Interval) -> bool:
    return all(math.isnan(end) for end in interval)


def holds(ends: Floats, truth: float) -> np.ndarray:
    """Which of the intervals [..., 2] hold the truth."""
    return (ends[..., 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[..., 1])


# --- proportions


def wilson_ends(n: int) -> Floats:
    """Of every count 0 ... n: [n + 1, 2]."""
    return np.array([intervals.wilson(k, n, 0.95) for k in range(n + 1)])


@pytest.mark.parametrize("n", [1, 7, 50, 400])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(n: int, confidence: float) -> None:
    for k in {0, 1, n // 3, n}:
        expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert intervals.wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [20, 50, 100, 400])
def test_wilson_covers_95_percent_on_average(n: int) -> None:
    ends, k = wilson_ends(n), np.arange(n + 1)
    exact = [stats.binom.pmf(k, n, p)[holds(ends, p)].sum() for p in RATES]
    assert 0.94 <= np.mean(exact) <= 0.965
    random = np.random.default_rng(n)
    drawn = [holds(ends[random.binomial(n, p, 20_000)], p).mean() for p in RATES]
    assert 0.94 <= np.mean(drawn) <= 0.965
    np.testing.assert_allclose(drawn, exact, atol=0.01)


@pytest.mark.parametrize("n", [1, 5, 29, 123])
def test_clopper_pearson_agrees_with_scipy_and_never_covers_less_than_promised(n: int) -> None:
    k = np.arange(n + 1)
    bounds = np.array([intervals.clopper_pearson_lower(int(i), n) for i in k])
    expected = [
        stats.binomtest(i, n, alternative="greater").proportion_ci(0.95, method="exact").low for i in range(n + 1)
    ]
    np.testing.assert_allclose(bounds, expected, atol=1e-12)
    for p in np.linspace(0.001, 0.999, 999):
        assert stats.binom.pmf(k, n, p)[bounds <= p].sum() >= 0.95 - 1e-12
    assert intervals.clopper_pearson_lower(n, n, 0.99) == pytest.approx(0.01 ** (1 / n))


def test_jeffreys_macro_covers_and_is_centred() -> None:
    random = np.random.default_rng(1)
    recalls, totals = np.array([0.9, 0.7, 0.95]), np.array([40, 200, 30])
    ends = np.array(
        [intervals.jeffreys_macro(random.binomial(totals, recalls).tolist(), totals.tolist(), 0.95) for _ in range(600)]
    )
    assert 0.93 <= holds(ends, float(recalls.mean())).mean() <= 0.98
    # of one class it is the interval of Jeffreys' posterior, which scipy knows
    low, high = intervals.jeffreys_macro([30], [40], 0.9)
    assert (low, high) == pytest.approx(stats.beta.ppf([0.05, 0.95], 30.5, 10.5), abs=0.01)


@pytest.mark.parametrize("totals", [(1,), (3, 2), (20, 20, 20), (40, 3, 900)])
def test_a_mean_of_proportions_lies_in_its_interval(totals: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    drawn = [random.binomial(totals, share).tolist() for share in (0.0, 0.02, 0.5, 0.98, 1.0) for _ in range(20)]
    for successes in drawn:
        low, high = intervals.jeffreys_macro(successes, totals, 0.95)
        assert low <= np.mean(np.divide(successes, totals)) <= high
    assert intervals.jeffreys_macro(totals, totals, 0.95)[1] == 1.0, "of a perfect figure nothing less is the most"
    assert intervals.jeffreys_macro([0] * len(totals), totals, 0.95)[0] == 0.0


# --- paired and independent differences


def score_statistic(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's from its definition: the likelihood is maximised under the difference by a search, not by his formula."""

    def surprise(q: float) -> float:
        """Minus the log likelihood of `lost` having probability q, `gained` q + difference."""
        shares = np.array([q + difference, q, 1 - 2 * q - difference])
        counts = np.array([gained, lost, n - gained - lost])
        return float(-(counts[counts > 0] * np.log(np.clip(shares[counts > 0], 1e-300, None))).sum())

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = optimize.minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return float((gained - lost - n * difference) / math.sqrt(n * (2 * q + difference - difference**2)))


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(7, 2, 40), (0, 5, 30), (5, 0, 30), (12, 12, 50), (1, 0, 6), (3, 90, 100)]
)
def test_tangos_ends_solve_the_score_equation(gained: int, lost: int, n: int) -> None:
    low, high = intervals.tango(gained, lost, n, 0.95)
    assert low < (gained - lost) / n < high
    assert score_statistic(gained, lost, n, low) == pytest.approx(Z, abs=1e-3)
    assert score_statistic(gained, lost, n, high) == pytest.approx(-Z, abs=1e-3)


@pytest.mark.parametrize("n", [1, 5, 50, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_tango_without_discordant_pairs_still_has_a_width(n: int, confidence: float) -> None:
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    end = z**2 / (n + z**2)
    assert intervals.tango(0, 0, n, confidence) == pytest.approx((-end, end), abs=1e-9)


def test_tango_is_antisymmetric_and_reaches_no_further_than_one() -> None:
    for gained, lost, n in [(7, 2, 40), (5, 0, 30), (40, 0, 40), (2.5, 1.25, 10)]:
        low, high = intervals.tango(gained, lost, n, 0.95)
        assert intervals.tango(lost, gained, n, 0.95) == pytest.approx((-high, -low), abs=1e-9)
        assert -1 <= low <= high <= 1
    assert intervals.tango(40, 0, 40, 0.95)[1] == 1.0
    assert intervals.tango(0, 40, 40, 0.95)[0] == -1.0


@pytest.mark.parametrize(("gained", "lost"), [(0.15, 0.15), (0.10, 0.05), (0.02, 0.08), (0.3, 0.1)])
def test_tango_covers(gained: float, lost: float) -> None:
    """At its worst points too; on average near 95 %."""
    n, truth = 40, gained - lost
    outcomes = [(g, k) for g in range(n + 1) for k in range(n + 1 - g)]
    chances = stats.multinomial.pmf([(g, k, n - g - k) for g, k in outcomes], n, (gained, lost, 1 - gained - lost))
    likely = np.flatnonzero(chances > 1e-7)
    ends = {outcomes[i]: intervals.tango(*outcomes[i], n, 0.95) for i in likely}
    exact = sum(chances[i] for i in likely if holds(np.array(ends[outcomes[i]]), truth))
    assert 0.935 <= exact <= 0.985
    draws = np.random.default_rng(0).multinomial(n, (gained, lost, 1 - gained - lost), 20_000)
    drawn = np.mean([bool(holds(np.array(ends.get((g, k), UNKNOWN)), truth)) for g, k, _ in draws.tolist()])
    assert drawn == pytest.approx(exact, abs=0.006)


def test_the_difference_of_two_proportions_is_newcombes_published_one() -> None:
    """Newcombe 1998 (Statistics in Medicine 17: 873-890), table II, example (a), method 10: 56/70 against 48/80."""
    ends = intervals.difference(56 / 70, intervals.wilson(56, 70, 0.95), 48 / 80, intervals.wilson(48, 80, 0.95))
    assert ends == pytest.approx((0.0524, 0.3339), abs=5e-5)


def exact_coverage(ends: Floats, n: int, m: int, truth: Callable[[float, float], float]) -> Floats:
    """Of intervals [n + 1, m + 1, 2] for every two counts, at two rates each out of nine: [9, 9]."""
    rates = np.linspace(0.5, 0.98, 9)
    first, second = (stats.binom.pmf(np.arange(size + 1), size, rates[:, None]) for size in (n, m))
    return np.array(
        [
            [(np.outer(a, b) * holds(ends, truth(p, q))).sum() for q, b in zip(rates, second, strict=True)]
            for p, a in zip(rates, first, strict=True)
        ]
    )


def test_a_difference_covers() -> None:
    few, many = wilson_ends(30), wilson_ends(60)
    ends = [[intervals.difference(a / 30, few[a], b / 60, many[b]) for b in range(61)] for a in range(31)]
    coverage = exact_coverage(np.array(ends), 30, 60, lambda p, q: p - q)
    assert 0.945 <= coverage.mean() <= 0.965
    assert coverage.min() >= 0.91


def test_the_mean_of_one_figure_is_itself_and_of_several_is_by_hand() -> None:
    assert intervals.mean_of([0.5], [(0.25, 0.625)]) == pytest.approx((0.25, 0.625))
    # sqrt(0.3^2 + 0.4^2) / 2 below the mean, sqrt(0.06^2 + 0.08^2) / 2 above
    assert intervals.mean_of([0.5, 0.7], [(0.2, 0.56), (0.3, 0.78)]) == pytest.approx((0.35, 0.65))


def test_a_mean_covers() -> None:
    few, many = wilson_ends(30), wilson_ends(60)
    ends = [[intervals.mean_of([a / 30, b / 60], [few[a], many[b]]) for b in range(61)] for a in range(31)]
    coverage = exact_coverage(np.array(ends), 30, 60, lambda p, q: (p + q) / 2)
    assert 0.945 <= coverage.mean() <= 0.965
    assert coverage.min() >= 0.91


# --- medians


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_ends_of_a_median_cover_it_and_no_closer_ones_would(confidence: float) -> None:
    """Of n values the k-th and l-th hold the median unless fewer than k or more than l - 1 lie below it."""

    def covers(first: int, last: int, n: int) -> float:
        return float(stats.binom.cdf(last, n, 0.5) - stats.binom.cdf(first, n, 0.5))

    known = 0
    for n in range(1, 80):
        values = np.random.default_rng(n).permutation(n).astype(np.float64)
        low, high = intervals.median_ends(values, confidence)
        if math.isnan(low):
            assert math.isnan(high)
            continue
        known += 1
        assert low + high == n - 1
        assert covers(int(low), int(high), n) >= confidence, f"{n} values"
        assert covers(int(low) + 1, int(high) - 1, n) < confidence
    assert known >= 70


def test_too_few_values_have_no_median_interval() -> None:
    assert unknown(intervals.median_ends(np.arange(5.0), 0.95))
    assert intervals.median_ends(np.array([3.0, 1, 2, 6, 5, 4]), 0.95) == (1, 6)
    assert unknown(intervals.median_ends(np.zeros(0), 0.95))


def test_a_median_is_covered_in_a_simulation() -> None:
    random = np.random.default_rng(0)
    ends = np.array([intervals.median_ends(random.lognormal(size=30), 0.95) for _ in range(1000)])
    assert 0.94 <= holds(ends, 1.0).mean() <= 0.985


# --- bootstraps

CONFUSION = np.array([[80, 15, 5], [4, 30, 6], [1, 2, 17]])


def rows_of(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and decided classes [N] that a confusion matrix counts."""
    truth, decided = np.nonzero(confusion)
    return np.repeat(truth, confusion[truth, decided]), np.repeat(decided, confusion[truth, decided])


def by_pictures(metric_name: str, confidence: float = 0.95, groups: Ints | None = None) -> Interval:
    truth, decided = rows_of(CONFUSION)
    of = OVERALL[metric_name]
    (ends,) = intervals.bootstrap(truth, groups, lambda w: of(confusion_matrices(truth, decided, 3, w)), confidence)
    return ends


@pytest.mark.parametrize("name", sorted(OVERALL))
def test_counts_drawn_again_are_pictures_drawn_again(name: str) -> None:
    """Two implementations, the same distribution: one multinomial a row, or every picture by itself."""
    counts = intervals.bootstrap_counts(CONFUSION, OVERALL[name], 0.95)
    assert counts == pytest.approx(by_pictures(name), abs=0.015)
    assert counts[0] < OVERALL[name](CONFUSION) < counts[1]
    assert counts == intervals.bootstrap_counts(CONFUSION, OVERALL[name], 0.95), "seeded"


def test_a_class_keeps_its_number_of_pictures_in_every_resample() -> None:
    seen: list[np.ndarray] = []

    def totals(confusion: np.ndarray) -> Floats:
        seen.append(confusion.sum(axis=-1))
        return accuracy(confusion)

    intervals.bootstrap_counts(CONFUSION, totals, 0.95)
    drawn = np.concatenate(seen)
    assert len(drawn) == intervals.RESAMPLES
    assert (drawn == CONFUSION.sum(axis=1)).all()


def test_many_classes_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals.bootstrap_counts(CONFUSION, accuracy, 0.95)
    monkeypatch.setattr(intervals, "_CELLS", 9 * 300)  # 300 matrices at once: 4 parts, the last of 100
    sizes: list[int] = []

    def counting(confusion: np.ndarray) -> Floats:
        sizes.append(len(confusion))
        return accuracy(confusion)

    assert intervals.bootstrap_counts(CONFUSION, counting, 0.95) == pytest.approx(whole, abs=0.015)
    assert sizes == [300, 300, 300, 100]


def test_a_value_per_class_is_drawn_at_once_and_is_that_of_each_class_alone() -> None:
    together = intervals.bootstrap_counts_by_class(CONFUSION, recall_by_class, 0.95)
    alone = [intervals.bootstrap_counts(CONFUSION, lambda c, i=i: recall_by_class(c)[..., i], 0.95) for i in range(3)]
    assert together == alone


def test_very_many_classes_are_drawn_a_fifth_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counting(confusion: np.ndarray) -> Floats:
        sizes.append(len(confusion))
        return accuracy(confusion)

    monkeypatch.setattr(intervals, "_MANY_CLASSES", 3)
    intervals.bootstrap_counts(CONFUSION, counting, 0.95)
    monkeypatch.setattr(intervals, "_MANY_CLASSES", 2)
    few = intervals.bootstrap_counts(CONFUSION, counting, 0.95)
    assert sizes == [1000, 200]
    assert few == pytest.approx(intervals.bootstrap_counts(CONFUSION, accuracy, 0.95), abs=0.03)


def test_a_bootstrapped_f1_covers() -> None:
    random, truth = np.random.default_rng(3), np.array([[0.9, 0.1], [0.2, 0.8]])
    totals = np.array([120, 60])
    expected = float(BY_CLASS["f1"](truth * totals[:, None])[1])
    ends = []
    for _ in range(300):
        drawn = np.stack([random.multinomial(n, row) for n, row in zip(totals, truth, strict=True)])
        ends.append(intervals.bootstrap_counts(drawn, lambda c: BY_CLASS["f1"](c)[..., 1], 0.95))
    assert 0.90 <= holds(np.array(ends), expected).mean() <= 0.985


def accuracy_of(truth: Ints, decided: Ints, groups: Ints) -> Interval:
    """Of two classes, with whole groups drawn again."""
    (ends,) = intervals.bootstrap(truth, groups, lambda w: accuracy(confusion_matrices(truth, decided, 2, w)), 0.95)
    return ends


def test_pictures_of_one_group_stand_or_fall_together() -> None:
    """200 pictures in 20 groups that are right or wrong as one: the interval is that of 20, not of 200."""
    right = np.repeat(np.arange(20) % 5 > 0, 10)
    truth = np.zeros(200, np.int64)
    decided, groups = np.where(right, 0, 1), np.repeat(np.arange(20), 10)
    alone = np.arange(200)
    wide, narrow = (accuracy_of(truth, decided, unit) for unit in (groups, alone))
    expected = stats.binom.ppf([0.025, 0.975], 20, 0.8) / 20
    assert wide == pytest.approx(expected, abs=0.051)
    assert (wide[1] - wide[0]) > 2.5 * (narrow[1] - narrow[0])

    def share(weights: Floats) -> Floats:
        found: Floats = weights @ right / weights.sum(axis=1)
        return found

    assert intervals.bootstrap(truth, groups, share, 0.95)[0] == pytest.approx(wide)
    assert intervals.bootstrap(truth, alone, share, 0.95)[0] == pytest.approx(narrow)


def test_groups_drawn_again_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    random, ends = np.random.default_rng(4), []
    for _ in range(200):
        right = random.random((40, 5)) < random.beta(4, 1, (40, 1))  # groups differ in how hard they are
        decided, groups = np.where(right.ravel(), 0, 1), np.repeat(np.arange(40), 5)
        ends.append(accuracy_of(np.zeros(200, np.int64), decided, groups))
    assert 0.90 <= holds(np.array(ends), 0.8).mean() <= 0.985


def test_draws_are_taken_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, seen = np.repeat([0, 1], 20), []

    def first(weights: Floats) -> Floats:
        seen.append(len(weights))
        return weights[:, 0]

    whole = intervals.bootstrap(truth, None, first, 0.95)
    monkeypatch.setattr(intervals, "_WEIGHTS", 40 * 300)
    assert intervals.bootstrap(truth, None, first, 0.95) == whole
    intervals.bootstrap(truth, None, first, 0.95, cells=80)
    assert seen == [1000, 300, 300, 300, 100, *[150] * 6, 100]


@pytest.mark.parametrize(("undefined", "is_known"), [(0.05, True), (0.2, False)])
def test_an_interval_needs_nine_in_ten_resamples_defined(undefined: float, is_known: bool) -> None:
    random = np.random.default_rng(0)

    def sometimes(weights: Floats) -> Floats:
        return np.where(random.random(len(weights)) < undefined, NAN, weights[:, 0])

    (ends,) = intervals.bootstrap(np.zeros(30, np.int64), None, sometimes, 0.95)
    assert unknown(ends) != is_known


def test_several_numbers_are_drawn_at_once_and_each_has_its_own_interval() -> None:
    truth = np.repeat([0, 1], 20)

    def several(weights: Floats) -> Floats:
        return np.stack([weights[:, 0], np.full(len(weights), NAN), weights[:, 20:].sum(axis=1)], axis=1)

    first, second, third = intervals.bootstrap(truth, None, several, 0.95)
    alone = intervals.bootstrap(truth, None, lambda weights: weights[:, 0], 0.95)
    assert [first] == alone
    assert unknown(second)
    assert third == (20, 20), "a class keeps its number of pictures"


def test_a_class_without_pictures_leaves_a_macro_figure_unknown() -> None:
    confusion = np.array([[8, 2], [0, 0]])
    assert unknown(intervals.bootstrap_counts(confusion, macro(recall_by_class), 0.95))
    assert not unknown(intervals.bootstrap_counts(confusion, accuracy, 0.95))


def test_a_wider_confidence_gives_a_wider_interval_everywhere() -> None:
    for ends in (
        lambda c: intervals.wilson(30, 40, c),
        lambda c: intervals.jeffreys_macro([30, 9], [40, 10], c),
        lambda c: intervals.tango(5, 3, 50, c),
        lambda c: intervals.median_ends(np.arange(40.0), c),
        lambda c: intervals.bootstrap_counts(CONFUSION, accuracy, c),
        lambda c: by_pictures("accuracy", c),
        lambda c: by_pictures("accuracy", c, np.arange(CONFUSION.sum()) // 4),
    ):
        (low, high), (lower, higher) = ends(0.8), ends(0.99)
        assert lower < low < high < higher


# --- small things


def test_nothing_measured_is_nan() -> None:
    assert unknown(intervals.wilson(0, 0, 0.95))
    assert unknown(intervals.tango(0, 0, 0, 0.95))
    assert unknown(intervals.jeffreys_macro([3, 0], [5, 0], 0.95))
    assert unknown(intervals.jeffreys_macro([], [], 0.95))
    assert math.isnan(intervals.clopper_pearson_lower(0, 0))
    assert intervals.clopper_pearson_lower(0, 9) == 0


def test_the_widest_of_two_is_unknown_if_either_is() -> None:
    assert intervals.widest((0.2, 0.5), (0.3, 0.9)) == (0.2, 0.9)
    assert intervals.widest((0.3, 0.9), (0.2, 0.5)) == (0.2, 0.9)
    assert unknown(intervals.widest(UNKNOWN, (0.2, 0.5)))
    assert unknown(intervals.widest((0.2, 0.5), UNKNOWN))


def test_groups_are_numbered_from_nought_without_gaps() -> None:
    numbers = intervals.group_numbers(("b", "ä", "b", "", "日本"))
    assert sorted(set(numbers.tolist())) == [0, 1, 2, 3]
    assert numbers[0] == numbers[2]
    assert numbers.dtype == np.int64
