"""The served threshold: the largest one whose one-sided bound reaches what was wanted, by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import BadInput
from tasks.evaluation.intervals import clopper_pearson_lower
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import choose_rule, positives_needed

CLASSES = ("good", "bad")


def scores(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = (random.random(n) < 0.3).astype(np.int64)
    bad = 1 / (1 + np.exp(-random.normal(2.0 * truth - 1.0, 1.2)))
    return np.stack([1 - bad, bad], axis=1).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(10))
def test_recall_is_kept_by_the_largest_threshold_that_shows_it(seed: int) -> None:
    probabilities, truth = scores(seed)
    rule = choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),)))
    threshold = rule.watch[0].threshold
    positives = probabilities[truth == 1, 1].astype(np.float64)

    def bound(t: float) -> float:
        return clopper_pearson_lower(int((positives >= t).sum()), len(positives))

    assert bound(threshold) >= 0.9
    higher = positives[positives > threshold]
    assert all(bound(float(t)) < 0.9 for t in higher)


def test_precision_is_kept_by_the_smallest_threshold_that_shows_it() -> None:
    probabilities, truth = scores(3)
    rule = choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="bad", precision=0.8),)))
    decided = rule.decide(probabilities, CLASSES) == 1
    assert clopper_pearson_lower(int((decided & (truth == 1)).sum()), int(decided.sum())) >= 0.8
    for t in np.unique(probabilities[:, 1]):
        if t < rule.watch[0].threshold:
            chosen = probabilities[:, 1] >= t
            assert clopper_pearson_lower(int((chosen & (truth == 1)).sum()), int(chosen.sum())) < 0.8


def test_a_later_watched_class_is_looked_at_after_the_first_took_its_own() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 600)
    logits = random.normal(size=(600, 3)) + 2.5 * np.eye(3)[truth]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    classes = ("a", "b", "c")
    watch = (WatchSpec(label="a", recall=0.8), WatchSpec(label="b", recall=0.6))
    decided = choose_rule(probabilities, truth, classes, DecisionSpec(watch=watch)).decide(probabilities, classes)
    for index, wanted in ((0, 0.8), (1, 0.6)):
        hits = int((decided[truth == index] == index).sum())
        assert clopper_pearson_lower(hits, int((truth == index).sum())) >= wanted


def test_too_few_positives_say_how_many_are_needed() -> None:
    assert positives_needed(0.9) == 29
    assert clopper_pearson_lower(29, 29) >= 0.9 > clopper_pearson_lower(28, 28)
    probabilities, truth = scores(0, n=60)
    with pytest.raises(BadInput, match="at least 29 validation pictures of 'bad'"):
        choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),)))


def test_an_unknown_class_is_named() -> None:
    probabilities, truth = scores(0)
    with pytest.raises(BadInput, match="found 'ugly'"):
        choose_rule(probabilities, truth, CLASSES, DecisionSpec(watch=(WatchSpec(label="ugly", recall=0.9),)))
