"""What a line measures: the metric, its interval, and n as the number of independent units."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import BadInput
from tasks.evaluation.gate import Line, judge, overall
from tasks.evaluation.intervals import wilson
from tasks.evaluation.lines import built_in_lines, measure, wanted_lines
from tasks.evaluation.metrics import Decisions
from tasks.evaluation.spec import DecisionSpec, GateSpec, LineSpec, WatchSpec

CLASSES = ("good", "bad")


def decisions(hits: dict[int, tuple[int, int]], group_size: int = 1) -> Decisions:
    """`hits[class] = (right, n)`; the rest is decided to be the other class. Consecutive pictures share a unit."""
    truth = np.concatenate([np.full(n, c) for c, (_, n) in hits.items()])
    decided = np.concatenate([np.r_[np.full(k, c), np.full(n - k, 1 - c)] for c, (k, n) in hits.items()])
    return Decisions(truth, decided, tuple(f"u{i // group_size}" for i in range(len(truth))))


def test_wanted_lines_of_each_kind() -> None:
    gate = GateSpec(min_accuracy=0.9, min_macro_recall=0.8, min_recall={"bad": 0.7}, lines=(
        LineSpec(metric="accuracy", split="train", operator="<=", threshold=0.99, severity="warn"),))  # fmt: skip
    lines = wanted_lines(gate, CLASSES)
    assert [f"{line.metric} {line.scope} {line.operator}" for line in lines] == [
        "accuracy overall >=",
        "macro_recall overall >=",
        "recall bad >=",
        "accuracy overall <=",
    ]
    assert all(line.evidence == "interval" for line in lines)
    both = wanted_lines(GateSpec(min_recall=0.6), CLASSES)
    assert [line.scope for line in both] == list(CLASSES)
    with pytest.raises(BadInput, match="found ugly"):
        wanted_lines(GateSpec(min_recall={"ugly": 0.6}), CLASSES)


def test_recall_and_precision_are_wilson_on_their_own_n() -> None:
    shown = decisions({0: (90, 100), 1: (30, 40)})
    recall = measure(Line("recall", "test", "bad", ">=", 0.5), shown, CLASSES, False, 0.95)
    assert (recall.value, recall.n, recall.interval) == (0.75, 40, wilson(30, 40, 0.95))
    precision = measure(Line("precision", "test", "bad", ">=", 0.5), shown, CLASSES, False, 0.95)
    assert (precision.value, precision.n) == (0.75, 40)


def test_a_class_never_decided_has_no_precision() -> None:
    nobody = decisions({0: (10, 10), 1: (0, 5)})
    line = Line("precision", "test", "bad", ">", 0.3, evidence="point")
    assert judge(line, measure(line, nobody, CLASSES, False, 0.95), 0.95).verdict == "INCONCLUSIVE"


def test_groups_widen_the_interval_and_are_what_n_counts() -> None:
    """200 pictures of 20 modules are evidence of 20, not of 200."""
    single, grouped = decisions({0: (90, 100), 1: (90, 100)}), decisions({0: (90, 100), 1: (90, 100)}, group_size=10)
    line = Line("recall", "test", "bad", ">=", 0.8)
    apart, together = (
        measure(line, shown, CLASSES, together, 0.95) for shown, together in ((single, False), (grouped, True))
    )
    assert (apart.n, together.n) == (100, 10)
    assert apart.value == together.value
    assert together.interval[0] < apart.interval[0]


def test_a_few_perfect_groups_prove_little() -> None:
    grouped = decisions({0: (30, 30), 1: (30, 30)}, group_size=10)
    measured = measure(Line("recall", "test", "bad", ">=", 0.8), grouped, CLASSES, True, 0.95)
    assert measured.interval == pytest.approx(wilson(3, 3, 0.95))


@pytest.mark.parametrize("metric", ["macro_recall", "balanced_accuracy", "macro_precision", "macro_f1"])
def test_macro_figures_have_an_interval_around_their_value(metric: str) -> None:
    measured = measure(
        Line(metric, "test", "overall", ">=", 0.5), decisions({0: (90, 100), 1: (30, 40)}), CLASSES, False, 0.95
    )
    low, high = measured.interval
    assert low < measured.value < high
    assert measured.n == 140


def test_high_accuracy_with_a_missed_class_is_refused_by_default() -> None:
    """98 % accuracy, recall 0.12 on the rare class: the built-in lines alone refuse it and name the class."""
    rare = decisions({0: (975, 975), 1: (3, 25)})
    lines = built_in_lines(DecisionSpec(), CLASSES, {"good": 0.975, "bad": 0.025})
    checks = [judge(line, measure(line, rare, CLASSES, False, 0.95), 0.95) for line in lines]
    assert overall(checks) == "REJECTED"
    (failing,) = [check for check in checks if check.verdict == "REJECTED"]
    assert (failing.metric, failing.scope, failing.n) == ("recall", "bad", 25)


def test_a_watched_class_must_be_more_precise_than_its_prevalence() -> None:
    watch = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
    lines = built_in_lines(watch, CLASSES, {"good": 0.7, "bad": 0.3})
    line = next(line for line in lines if line.metric == "precision")
    crying_wolf = decisions({0: (60, 140), 1: (34, 60)})
    measured = measure(line, crying_wolf, CLASSES, False, 0.95)
    assert judge(line, measured, 0.95).verdict == "REJECTED"
    assert measured.value < 0.3
