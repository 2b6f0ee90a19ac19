"""The served threshold: the largest one whose one-sided bound reaches what was wanted, by brute force."""

from __future__ import annotations

import time

import numpy as np
import pytest

from serving.artifact import Rule
from serving.errors import BadInput
from tasks.evaluation.intervals import clopper_pearson_lower
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import choose_rule, positives_needed, precision_units, tradeoff

CLASSES = ("good", "bad")
RECALL = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
PRECISION = DecisionSpec(watch=(WatchSpec(label="bad", precision=0.8),))


def scores(seed: int, n: int = 400, digits: int = 7) -> tuple[np.ndarray, Ints]:
    """Probabilities float32 [n, 2] that lean to the truth, rounded so that few digits mean many ties."""
    random = np.random.default_rng(seed)
    truth = (random.random(n) < 0.3).astype(np.int64)
    bad = np.round(1 / (1 + np.exp(-random.normal(2.0 * truth - 1.0, 1.2))), digits)
    return np.stack([1 - bad, bad], axis=1).astype(np.float32), truth


def three(seed: int, n: int = 600) -> tuple[np.ndarray, Ints]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, n)
    logits = random.normal(size=(n, 3)) + 2.5 * np.eye(3)[truth]
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32), truth


def chosen(probabilities: np.ndarray, truth: Ints, decision: DecisionSpec) -> float:
    (step,) = choose_rule(probabilities, truth, CLASSES, decision).watch
    return step.threshold


# --- every operating point


@pytest.mark.parametrize("digits", [1, 2, 7])
def test_a_tradeoff_counts_what_each_threshold_finds(digits: int) -> None:
    probabilities, truth = scores(4, 200, digits)
    bad = probabilities[:, 1].astype(np.float64)
    curve = tradeoff(probabilities[:, 1], truth == 1)
    assert curve.thresholds.tolist() == sorted(set(bad.tolist()), reverse=True)
    assert curve.decided.tolist() == [int((bad >= t).sum()) for t in curve.thresholds]
    assert curve.found.tolist() == [int(((bad >= t) & (truth == 1)).sum()) for t in curve.thresholds]
    np.testing.assert_allclose(curve.recall, curve.found / (truth == 1).sum())
    np.testing.assert_allclose(curve.precision, curve.found / curve.decided)
    positives = int((truth == 1).sum())
    bounds = [clopper_pearson_lower(int(found), positives) for found in curve.found]
    np.testing.assert_allclose(curve.recall_bound(), bounds, atol=1e-12)
    bounds = [clopper_pearson_lower(int(f), int(d)) for f, d in zip(curve.found, curve.decided, strict=True)]
    np.testing.assert_allclose(curve.precision_bound(), bounds, atol=1e-12)


def test_what_an_earlier_class_took_is_lost_to_the_recall_and_not_counted_as_decided() -> None:
    bad = np.array([0.9, 0.8, 0.7, 0.6])
    positive, free = np.array([True, True, False, True]), np.array([True, False, True, True])
    curve = tradeoff(bad, positive, free)
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.6]
    assert curve.found.tolist() == [1, 1, 2]
    assert curve.decided.tolist() == [1, 2, 3]
    assert curve.positives == 3
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_no_positives_have_no_recall_and_promise_none() -> None:
    curve = tradeoff(np.array([0.3, 0.2]), np.array([False, False]))
    assert np.isnan(curve.recall).all()
    assert curve.recall_bound().tolist() == [0, 0]
    assert curve.precision_bound().tolist() == [0, 0]
    nothing = tradeoff(np.zeros(0), np.zeros(0, bool))
    assert len(nothing.thresholds) == len(nothing.recall_bound()) == 0


# --- the rule


@pytest.mark.parametrize("digits", [2, 7])
@pytest.mark.parametrize("seed", range(10))
def test_recall_is_kept_by_the_largest_threshold_that_shows_it(seed: int, digits: int) -> None:
    probabilities, truth = scores(seed, digits=digits)
    threshold = chosen(probabilities, truth, RECALL)
    positives = probabilities[truth == 1, 1].astype(np.float64)

    def bound(t: float) -> float:
        return clopper_pearson_lower(int((positives >= t).sum()), len(positives))

    assert bound(threshold) >= 0.9
    higher = probabilities[probabilities[:, 1] > threshold, 1].astype(np.float64)
    assert len(higher)
    assert all(bound(float(t)) < 0.9 for t in higher)


@pytest.mark.parametrize("digits", [2, 7])
@pytest.mark.parametrize("seed", range(5))
def test_precision_is_kept_by_the_last_threshold_before_one_fails(seed: int, digits: int) -> None:
    """Tested at 22, 24, 26, 29 ... decided pictures: 21 of 22 are the fewest of which one may be wrong."""
    probabilities, truth = scores(seed, digits=digits)
    bad = probabilities[:, 1].astype(np.float64)
    threshold = chosen(probabilities, truth, PRECISION)
    falling, count, shown = np.sort(bad)[::-1], 22, None
    while True:
        decided = bad >= falling[count - 1]
        if clopper_pearson_lower(int((decided & (truth == 1)).sum()), int(decided.sum())) < 0.8:
            break
        shown, count = float(falling[count - 1]), max(count + 1, round(count * 1.1))
    assert threshold == shown


@pytest.mark.parametrize("decision", [RECALL, PRECISION])
def test_the_rule_decides_exactly_the_pictures_that_were_counted(decision: DecisionSpec) -> None:
    """The stored threshold is one of the probabilities: the picture that has it must be on the right side of it."""
    probabilities, truth = scores(5)
    rule = choose_rule(probabilities, truth, CLASSES, decision)
    threshold = rule.watch[0].threshold
    assert threshold in probabilities[:, 1].astype(np.float64)
    decided = rule.decide(probabilities, CLASSES) == 1
    assert np.array_equal(decided, probabilities[:, 1].astype(np.float64) >= threshold)
    again = Rule.model_validate_json(rule.model_dump_json())
    assert np.array_equal(again.decide(probabilities, CLASSES) == 1, decided)
    assert (rule.watch[0].label, rule.watch[0].metric) == ("bad", "recall" if decision is RECALL else "precision")
    assert rule.watch[0].wanted == (0.9 if decision is RECALL else 0.8)


def test_without_watched_classes_the_likeliest_is_decided() -> None:
    assert choose_rule(*scores(0), CLASSES, DecisionSpec()) == Rule()


@pytest.mark.parametrize("seed", range(5))
def test_a_later_watched_class_is_looked_at_after_the_first_took_its_own(seed: int) -> None:
    probabilities, truth = three(seed)
    classes = ("a", "b", "c")
    watch = (WatchSpec(label="a", recall=0.8), WatchSpec(label="b", recall=0.6))
    rule = choose_rule(probabilities, truth, classes, DecisionSpec(watch=watch))
    decided = rule.decide(probabilities, classes)
    first, second = (step.threshold for step in rule.watch)
    alone = choose_rule(probabilities, truth, classes, DecisionSpec(watch=watch[:1]))
    assert first == alone.watch[0].threshold, "the first is chosen as if it were alone"
    for index, wanted in ((0, 0.8), (1, 0.6)):
        assert (
            clopper_pearson_lower(int((decided[truth == index] == index).sum()), int((truth == index).sum())) >= wanted
        )
    free = probabilities[:, 0].astype(np.float64) < first
    positives, total = probabilities[free & (truth == 1), 1].astype(np.float64), int((truth == 1).sum())
    higher = probabilities[free & (probabilities[:, 1] > second), 1].astype(np.float64)
    assert all(clopper_pearson_lower(int((positives >= t).sum()), total) < 0.6 for t in higher)


def test_a_third_watched_class_is_looked_at_after_both_took_theirs() -> None:
    """Pictures of c that a took are lost to c, also where b left them."""
    random = np.random.default_rng(1)
    truth = random.integers(0, 4, 800)
    logits = random.normal(size=(800, 4)) + 2.0 * np.eye(4)[truth]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    wanted = {"a": 0.95, "b": 0.5, "c": 0.3}
    watch = tuple(WatchSpec(label=label, recall=recall) for label, recall in wanted.items())
    rule = choose_rule(probabilities, truth, ("a", "b", "c", "d"), DecisionSpec(watch=watch))
    exact = probabilities.astype(np.float64)
    first, second, third = (step.threshold for step in rule.watch)
    of_c, taken = truth == 2, exact[:, 0] >= first
    assert (of_c & taken & (exact[:, 1] < second) & (exact[:, 2] >= third)).any()
    positives, total = exact[of_c & ~taken & (exact[:, 1] < second), 2], int(of_c.sum())
    assert clopper_pearson_lower(int((positives >= third).sum()), total) >= wanted["c"]
    higher = positives[positives > third]
    assert all(clopper_pearson_lower(int((positives >= t).sum()), total) < wanted["c"] for t in higher)


def test_a_bound_that_is_just_what_was_wanted_reaches_it() -> None:
    probabilities, truth = scores(6)
    curve = tradeoff(probabilities[:, 1], truth == 1)
    bounds = curve.recall_bound()
    wanted = float(bounds[len(bounds) // 2])
    watch = WatchSpec(label="bad", recall=wanted)
    assert chosen(probabilities, truth, DecisionSpec(watch=(watch,))) == curve.thresholds[bounds == wanted].max()


# --- what cannot be shown


@pytest.mark.parametrize("recall", [0.05, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_positives_needed_is_the_first_number_that_can_show_it(recall: float) -> None:
    needed = positives_needed(recall)
    assert clopper_pearson_lower(needed, needed) >= recall
    assert needed == 1 or clopper_pearson_lower(needed - 1, needed - 1) < recall


@pytest.mark.parametrize(("positives", "enough"), [(28, False), (29, True)])
def test_too_few_positives_say_how_many_are_needed(positives: int, enough: bool) -> None:
    truth = np.array([1] * positives + [0] * 30, np.int64)
    perfect = np.eye(2, dtype=np.float32)[truth]
    if enough:
        assert chosen(perfect, truth, RECALL) == 1.0
        return
    with pytest.raises(BadInput) as raised:
        choose_rule(perfect, truth, CLASSES, RECALL)
    assert str(raised.value) == (
        "expected at least 29 validation pictures of 'bad' to show a recall of 0.9, found 28 (28 not taken by an "
        "earlier watched class): add pictures, or want less"
    )


def test_positives_taken_by_an_earlier_class_are_said() -> None:
    """Both classes get the same probabilities: the first takes every picture."""
    truth = np.array([0, 1, 2] * 40, np.int64)
    probabilities = np.tile(np.array([0.4, 0.35, 0.25], np.float32), (120, 1))
    watch = (WatchSpec(label="a", recall=0.5), WatchSpec(label="b", recall=0.5))
    with pytest.raises(BadInput, match=r"found 40 \(0 not taken by an earlier watched class\)"):
        choose_rule(probabilities, truth, ("a", "b", "c"), DecisionSpec(watch=watch))


def test_a_precision_that_cannot_be_shown_says_what_can() -> None:
    probabilities, truth = scores(0, n=60)
    with pytest.raises(BadInput, match="the 473 validation pictures surest to be 'bad' to show .* 0.99, found 60 pict"):
        choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="bad", precision=0.99),)))


@pytest.mark.parametrize("decision", [RECALL, PRECISION])
def test_no_validation_pictures_show_nothing(decision: DecisionSpec) -> None:
    with pytest.raises(BadInput, match="of 'bad'|to be 'bad' .* found 0 pictures in all"):
        choose_rule(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), CLASSES, decision)


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(BadInput, match="a watched class among good, bad, found 'ugly': correct decision"):
        choose_rule(*scores(0), CLASSES, DecisionSpec(watch=(WatchSpec(label="ugly", recall=0.9),)))


def test_a_precision_that_is_missed_at_the_first_test_says_by_how_much() -> None:
    probabilities, truth = scores(0)
    with pytest.raises(
        BadInput, match=r"the 93 validation pictures surest .* found 0\.\d{3} as a 95 % bound: add pict"
    ):
        choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="bad", precision=0.95),)))


@pytest.mark.parametrize("wanted", [0.05, 0.5, 0.8, 0.9, 0.95, 0.999])
def test_precision_units_are_the_fewest_of_which_one_may_be_wrong(wanted: float) -> None:
    units = precision_units(wanted)
    assert clopper_pearson_lower(units - 1, units) >= wanted
    assert units == 2 or clopper_pearson_lower(units - 2, units - 1) < wanted


# --- time


def seconds(n: int, decision: DecisionSpec) -> float:
    random = np.random.default_rng(0)
    bad: Floats = random.random(n)
    truth = (random.random(n) < bad).astype(np.int64)
    probabilities = np.stack([1 - bad, bad], axis=1).astype(np.float32)
    start = time.perf_counter()
    choose_rule(probabilities, truth, CLASSES, decision)
    return time.perf_counter() - start


@pytest.mark.parametrize("decision", [RECALL, DecisionSpec(watch=(WatchSpec(label="bad", precision=0.6),))])
def test_two_hundred_thousand_pictures_take_a_moment(decision: DecisionSpec) -> None:
    """A loop over thresholds that counts anew at each would take an hour."""
    assert seconds(200_000, decision) < 20
