"""The verdict of a line, the verdict of a run, and the advice. Every branch can be told apart by a test."""

from __future__ import annotations

import math

import pytest

from serving.errors import BadInput
from tasks.evaluation.gate import Check, Line, Measurement, judge, overall, units_to_decide
from tasks.evaluation.intervals import wilson

NAN = float("nan")


def recall_line(threshold: float = 0.8, **changes: str) -> Line:
    return Line("recall", "test", "defective", ">=", threshold, **changes)


def share(hits: int, n: int) -> Measurement:
    return Measurement(hits / n, wilson(hits, n, 0.95), n, proportion=True)


def verdict(line: Line, measured: Measurement | None) -> str:
    return judge(line, measured, 0.95).verdict


def test_by_interval() -> None:
    assert verdict(recall_line(), share(180, 200)) == "PASSED"  # 0.90, from 0.85
    assert verdict(recall_line(), share(166, 200)) == "INCONCLUSIVE"  # 0.83, from 0.77
    assert verdict(recall_line(), share(150, 200)) == "REJECTED"  # 0.75
    assert (
        verdict(recall_line(), share(159, 200)) == "REJECTED"
    )  # 0.795: a value below is never excused by its interval


def test_the_ends_count_as_reached() -> None:
    assert verdict(recall_line(), Measurement(0.9, (0.8, 0.95), 100)) == "PASSED"
    assert verdict(recall_line(), Measurement(0.8, (0.8, 0.9), 100)) == "PASSED"
    assert verdict(recall_line(), Measurement(0.8, (0.79, 0.9), 100)) == "INCONCLUSIVE"


def test_upper_limits_look_at_the_other_end() -> None:
    line = Line("accuracy", "train", "overall", "<=", 0.95)
    assert verdict(line, Measurement(0.90, (0.88, 0.94), 100)) == "PASSED"
    assert verdict(line, Measurement(0.94, (0.88, 0.96), 100)) == "INCONCLUSIVE"
    assert verdict(line, Measurement(0.96, (0.94, 0.98), 100)) == "REJECTED"


def test_by_point_the_value_decides_and_a_doubt_is_said() -> None:
    line = recall_line(0.5, evidence="point")
    sure, doubtful = judge(line, share(90, 100), 0.95), judge(line, share(6, 10), 0.95)
    assert (sure.verdict, sure.advice) == ("PASSED", None)
    assert doubtful.verdict == "PASSED"
    assert doubtful.advice is not None and "its interval does not" in doubtful.advice
    assert verdict(line, share(49, 100)) == "REJECTED"
    assert verdict(line, share(50, 100)) == "PASSED"


def test_above_chance_means_above() -> None:
    line = Line("balanced_accuracy", "test", "overall", ">", 0.5, evidence="point")
    assert verdict(line, Measurement(0.5, (0.4, 0.6), 100)) == "REJECTED"
    assert verdict(line, Measurement(0.51, (0.4, 0.6), 100)) == "PASSED"


@pytest.mark.parametrize("evidence", ["interval", "point"])
def test_what_was_not_measured_is_inconclusive(evidence: str) -> None:
    line = recall_line(evidence=evidence)
    for missing in (None, Measurement(NAN, (NAN, NAN), 0)):
        check = judge(line, missing, 0.95)
        assert check.verdict == "INCONCLUSIVE"
        assert check.value is None and check.ci_low is None
        assert check.advice is not None and "not measured" in check.advice
    assert verdict(recall_line(), Measurement(0.9, (NAN, NAN), 5)) == "INCONCLUSIVE"


def check(result: str, severity: str = "fail") -> Check:
    line = recall_line(severity=severity)
    measured = {"PASSED": share(195, 200), "REJECTED": share(100, 200), "INCONCLUSIVE": share(166, 200)}[result]
    judged = judge(line, measured, 0.95)
    assert judged.verdict == result
    return judged


def test_rejected_wins_then_inconclusive() -> None:
    assert overall([check("PASSED"), check("INCONCLUSIVE"), check("REJECTED")]) == "REJECTED"
    assert overall([check("PASSED"), check("INCONCLUSIVE")]) == "INCONCLUSIVE"
    assert overall([check("PASSED"), check("PASSED")]) == "PASSED"


def test_warnings_never_decide_and_no_lines_is_an_error() -> None:
    assert overall([check("PASSED"), check("REJECTED", "warn")]) == "PASSED"
    with pytest.raises(BadInput, match="at least one gate line"):
        overall([check("PASSED", "warn")])


def test_the_number_of_pictures_that_would_decide_is_exact() -> None:
    more = units_to_decide(0.85, 0.8, 100, 0.95)
    assert more is not None
    assert wilson(0.85 * (100 + more), 100 + more, 0.95)[0] >= 0.8
    assert wilson(0.85 * (99 + more), 99 + more, 0.95)[0] < 0.8
    assert units_to_decide(0.8, 0.8, 100, 0.95) is None
    upper = units_to_decide(0.9, 0.95, 50, 0.95, upper=True)
    assert upper is not None and wilson(0.9 * (50 + upper), 50 + upper, 0.95)[1] <= 0.95


def test_the_advice_names_the_class_and_the_number() -> None:
    judged = judge(recall_line(), share(166, 200), 0.95)
    more = units_to_decide(0.83, 0.8, 200, 0.95)
    assert judged.advice == f"about {more} more test pictures of 'defective' would decide, at the same value"


def test_a_check_is_json() -> None:
    body = judge(recall_line(), share(180, 200), 0.95).as_json()
    assert set(body) == {
        "metric", "split", "scope", "operator", "threshold", "value", "ci_low", "ci_high", "n", "evidence", "severity",
        "verdict", "advice",
    }  # fmt: skip
    assert not any(isinstance(value, float) and math.isnan(value) for value in body.values())
