"""Every watched class is compared with the champion, in what it is watched for: recall or precision."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluation.champion import compare, paired_precision
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Line, Measurement, judge
from tasks.evaluation.intervals import tango
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.metrics import Ints
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec
from tests.evaluation.build import champion_of, counted, evidence

THREE = ("a", "b", "c")
BOTH = DecisionSpec(watch=(WatchSpec(label="a", recall=0.9), WatchSpec(label="b", recall=0.9)))
PRECISE = DecisionSpec(watch=(WatchSpec(label="bad", precision=0.9),))


def against(confusion: list[list[int]], champion: list[list[int]], classes: tuple[str, ...], size: int = 1) -> Evidence:
    """Ours and the champion's decisions on the same pictures, as their confusion matrices count them."""
    ours = counted(confusion, group_size=size)
    theirs = counted(champion).decided
    return evidence(ours, classes=classes, grouped=size > 1, champion=champion_of(ours, theirs.tolist(), classes))


def judged(shown: Evidence, decision: DecisionSpec, **gate: float) -> list[tuple[str, str, str]]:
    lines = compare(shown, decision, GateSpec.model_validate(gate)).lines
    return [(line.metric, line.scope, judge(line, found).verdict) for line, found in lines]


def compared(shown: Evidence) -> Measurement:
    found = {line.metric: found for line, found in compare(shown, PRECISE, GateSpec()).lines}
    measured = found["precision_vs_champion"]
    assert measured is not None
    return measured


def test_the_second_watched_class_is_compared_too() -> None:
    """Recall of b falls from 29 in 30 to 15; a and accuracy (by 4 points) stay within their margins."""
    champion = [[29, 0, 1], [0, 29, 1], [0, 0, 300]]
    worse = against([[29, 0, 1], [0, 15, 15], [0, 0, 300]], champion, THREE)
    assert judged(worse, BOTH) == [
        ("recall_vs_champion", "a", "PASSED"),
        ("recall_vs_champion", "b", "REJECTED"),
        ("accuracy_vs_champion", "overall", "PASSED"),
    ]
    assert judge_all(worse, BOTH, GateSpec(), "fp32").verdict == "REJECTED"
    same = against(champion, champion, THREE)
    assert judge_all(same, BOTH, GateSpec(), "fp32").verdict == "PASSED"


def test_a_class_watched_for_precision_is_compared_in_precision() -> None:
    """Precision falls from 1 to 28 in 44; every bad picture that was found still is."""
    worse = against([[384, 16], [2, 28]], [[400, 0], [2, 28]], ("good", "bad"))
    assert judged(worse, PRECISE) == [
        ("precision_vs_champion", "bad", "REJECTED"),
        ("recall_vs_champion", "overall", "PASSED"),
        ("accuracy_vs_champion", "overall", "PASSED"),
    ]
    assert judge_all(worse, PRECISE, GateSpec(), "fp32").verdict == "REJECTED"
    found = compared(worse)
    assert (found.value, found.n, found.unit) == (pytest.approx(28 / 44 - 1), 44, "pictures")
    assert found.interval[0] < found.value < found.interval[1] < -0.2


def test_its_margin_is_that_of_the_watched_classes() -> None:
    same = [[390, 10], [5, 195]]
    shown = against(same, same, ("good", "bad"))
    lines = [line for line, _ in compare(shown, PRECISE, GateSpec(champion_recall_margin=0.1)).lines]
    assert lines[0] == Line("precision_vs_champion", "test", "bad", ">=", -0.1, "fail", "interval")
    assert judged(shown, PRECISE, champion_recall_margin=0.1)[0][2] == "PASSED"
    assert judged(shown, PRECISE, champion_recall_margin=0.01)[0][2] == "INCONCLUSIVE"


def test_a_recall_and_a_precision_may_be_watched_together() -> None:
    mixed = DecisionSpec(watch=(WatchSpec(label="b", precision=0.9), WatchSpec(label="a", recall=0.9)))
    same = [[29, 0, 1], [0, 29, 1], [0, 0, 300]]
    assert [found[:2] for found in judged(against(same, same, THREE), mixed)] == [
        ("precision_vs_champion", "b"),
        ("recall_vs_champion", "a"),
        ("accuracy_vs_champion", "overall"),
    ]


def test_the_same_decisions_prove_no_more_than_their_number() -> None:
    """200 pictures decided to be bad: Tango's width for as many pairs that do not differ."""
    same = [[390, 10], [10, 190]]
    found = compared(against(same, same, ("good", "bad")))
    assert (found.value, found.n) == (0, 200)
    assert found.interval == pytest.approx(tango(0, 0, 200, 0.95))


def test_with_groups_whole_groups_are_drawn_and_counted() -> None:
    ours, champion = [[180, 20], [10, 90]], [[190, 10], [10, 90]]
    apart, together = (compared(against(ours, champion, ("good", "bad"), size)) for size in (1, 10))
    assert together.value == apart.value == pytest.approx(90 / 110 - 90 / 100)
    assert (together.n, together.unit) == (11, "groups")
    assert together.interval[0] < apart.interval[0]
    assert together.interval[1] > apart.interval[1]


@pytest.mark.parametrize("silent", [0, 1])
def test_a_model_that_never_decides_the_class_cannot_be_compared(silent: int) -> None:
    matrices = [[[400, 0], [0, 30]], [[400, 0], [0, 30]]]
    matrices[silent] = [[400, 0], [30, 0]]
    shown = against(matrices[0], matrices[1], ("good", "bad"))
    assert judged(shown, PRECISE)[0] == ("precision_vs_champion", "bad", "INCONCLUSIVE")
    check = next(c for c in judge_all(shown, PRECISE, GateSpec(), "fp32").checks if c.metric == "precision_vs_champion")
    assert check.advice == "not measured: this model or the champion decided no test pictures to be 'bad'"


def test_only_pictures_that_can_be_compared_count() -> None:
    """The 10 false alarms were the champion's training pictures."""
    ours = counted([[90, 10], [0, 30]])
    comparable = ~((ours.truth == 0) & (ours.decided == 1))
    pairs = champion_of(ours, ours.truth.tolist(), comparable=comparable.tolist())
    found = compared(evidence(ours, champion=pairs))
    assert (found.value, found.n) == (0, 30)


def test_the_interval_of_a_paired_precision_covers_in_a_simulation() -> None:
    """60 positives, 300 others; the two agree on most. Ours finds 90 % and cries wolf at 4 %, the champion at 2 %."""
    random, held = np.random.default_rng(0), 0
    truth = np.repeat([1, 0], [60, 300])
    wanted = 54 / (54 + 12) - 54 / (54 + 6)

    def decided(difficulty: np.ndarray, least: float) -> Ints:
        shares = np.where(truth == 1, 0.9, least)
        own = np.where(random.random(len(truth)) < 0.8, difficulty, random.random(len(truth)))
        return (own < shares).astype(np.int64)

    for _ in range(100):
        difficulty = random.random(len(truth))
        found = paired_precision(truth, decided(difficulty, 0.04), decided(difficulty, 0.02), 1, None, 0.95)
        assert found is not None
        held += found.interval[0] <= wanted <= found.interval[1]
    assert held >= 90
