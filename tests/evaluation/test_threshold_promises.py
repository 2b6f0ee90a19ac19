"""The served threshold over many draws of the pictures, and where groups are what is independent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from serving.errors import BadInput
from tasks.evaluation.intervals import clopper_pearson_lower
from tasks.evaluation.metrics import Ints
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import choose_rule, tradeoff
from tests.evaluation.test_threshold import CLASSES, PRECISION, RECALL, chosen, scores


def test_a_promised_recall_is_kept_in_nineteen_of_twenty_runs() -> None:
    """60 positives whose probabilities are uniform: the true recall of a threshold t is 1 - t."""
    random, kept, runs = np.random.default_rng(0), 0, 600
    for _ in range(runs):
        bad = random.random(60)
        threshold = chosen(np.stack([1 - bad, bad], axis=1), np.ones(60, np.int64), RECALL)
        kept += 1 - threshold >= 0.9
    # 59 of 60 are needed; kept unless 59 or more lie where only nine in ten should
    assert clopper_pearson_lower(58, 60) < 0.9 <= clopper_pearson_lower(59, 60)
    exact = float(stats.binom.cdf(58, 60, 0.9))
    assert exact >= 0.95
    assert kept / runs == pytest.approx(exact, abs=0.015)


def test_a_promised_precision_is_kept_although_many_thresholds_are_looked_at() -> None:
    """1,000 pictures, 89.8 % positive whatever their score: no threshold holds 0.9. The best of all looks: 22 %."""
    random, issued, runs = np.random.default_rng(0), 0, 300
    decision = DecisionSpec(watch=(WatchSpec(label="bad", precision=0.9),))
    for _ in range(runs):
        bad, truth = random.random(1000), (random.random(1000) < 0.898).astype(np.int64)
        try:
            choose_rule(np.stack([1 - bad, bad], axis=1), truth, CLASSES, decision)
            issued += 1
        except BadInput:
            continue
    assert issued / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)


# --- groups are what is counted, where there are groups


def patients(count: int, of_each: int, seed: int = 0) -> tuple[np.ndarray, Ints, tuple[str, ...]]:
    """Positives of so many patients, then as many negatives of others; pictures of one patient are alike."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(2 * count), of_each)
    truth = (person < count).astype(np.int64)
    logits = 3.0 * truth + random.standard_normal(2 * count)[person] + 0.5 * random.standard_normal(len(person))
    bad = 1 / (1 + np.exp(-logits))
    return np.stack([1 - bad, bad], axis=1), truth, tuple(f"{i}" for i in person)


def test_pictures_of_one_patient_show_no_recall() -> None:
    truth = np.repeat(np.array([1, 0], np.int64), 29)
    perfect, groups = np.eye(2, dtype=np.float32)[truth], tuple("one" if t else "other" for t in truth)
    assert choose_rule(perfect, truth, CLASSES, RECALL).watch[0].threshold == 1.0
    with pytest.raises(BadInput) as raised:
        choose_rule(perfect, truth, CLASSES, RECALL, groups)
    assert str(raised.value) == (
        "expected at least 29 validation groups of 'bad' to show a recall of 0.9, found 1 with 29 pictures (29 not "
        "taken by an earlier watched class): add groups, or want less"
    )


@pytest.mark.parametrize("decision", [RECALL, PRECISION])
def test_a_group_of_every_picture_changes_nothing(decision: DecisionSpec) -> None:
    probabilities, truth = scores(2)
    alone = tuple(f"{i}" for i in range(len(truth)))
    assert choose_rule(probabilities, truth, CLASSES, decision, alone) == choose_rule(
        probabilities, truth, CLASSES, decision
    )


@pytest.mark.parametrize("decision", [RECALL, PRECISION])
def test_copies_of_every_picture_change_nothing(decision: DecisionSpec) -> None:
    probabilities, truth = scores(2)
    alone, groups = choose_rule(probabilities, truth, CLASSES, decision), [f"{i}" for i in range(len(truth))]
    copied = np.repeat(probabilities, 5, axis=0), np.repeat(truth, 5)
    assert choose_rule(*copied, CLASSES, decision, tuple(np.repeat(groups, 5).tolist())) == alone
    assert choose_rule(*copied, CLASSES, decision) != alone


def test_the_decided_groups_are_counted_at_each_threshold() -> None:
    probabilities, truth, groups = patients(30, 4)
    free = np.random.default_rng(1).random(len(truth)) < 0.8
    bad, curve = probabilities[:, 1], tradeoff(probabilities[:, 1], truth == 1, free, groups)
    names = np.array(groups)
    assert curve.decided_units.tolist() == [len(set(names[free & (bad >= t)])) for t in curve.thresholds]
    assert curve.positive_units == 30 and curve.positives == 120


def test_a_promised_recall_is_kept_for_pictures_of_patients() -> None:
    """40 patients of 3 pictures, whose scores mostly go by the patient."""
    kept, runs = 0, 300
    spread = np.sqrt(1.25)
    for seed in range(runs):
        threshold = (
            choose_rule(*patients(40, 3, seed)[:2], CLASSES, RECALL, patients(40, 3, seed)[2]).watch[0].threshold
        )
        kept += stats.norm.sf((np.log(threshold / (1 - threshold)) - 3) / spread) >= 0.9
    assert kept / runs >= 0.93
