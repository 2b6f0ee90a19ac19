"""The verdict of a line and of a run. Light to import: benchmarks/mutants.py runs this file once a mutant."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest

from serving.errors import BadInput
from tasks.evaluation.gate import Check, Line, Measurement, failing, holds, judge, near_end, overall

NAN, INF = math.nan, math.inf
NOTHING = Measurement(NAN, (NAN, NAN), 0)


def at_least(threshold: float = 0.8, **changes: str) -> Line:
    return Line("recall", "test", "bad", ">=", threshold, **changes)


def at_most(threshold: float, **changes: str) -> Line:
    return Line("log_loss", "train", "overall", "<=", threshold, **changes)


def above(threshold: float, **changes: str) -> Line:
    return Line("balanced_accuracy", "test", "overall", ">", threshold, **changes)


def found(value: float, low: float = NAN, high: float = NAN, n: int = 100) -> Measurement:
    return Measurement(value, (low, high), n)


def verdict(line: Line, measured: Measurement | None) -> str:
    return judge(line, measured).verdict


def check(result: str, severity: str = "fail", scope: str = "bad") -> Check:
    measured = {
        "PASSED": found(0.9, 0.85, 0.95),
        "REJECTED": found(0.7, 0.6, 0.9),
        "INCONCLUSIVE": found(0.83, 0.7, 0.9),
    }
    judged = judge(Line("recall", "test", scope, ">=", 0.8, severity), measured[result])
    assert judged.verdict == result
    return judged


# line, value, its interval, verdict; each threshold is met exactly, missed by a little, and passed by a little
LOWER, UPPER, STRICT = at_least(0.8), at_most(0.3), above(0.5)
BY_INTERVAL = [
    (LOWER, 0.9, (0.8001, 0.95), "PASSED"),
    (LOWER, 0.9, (0.8, 0.95), "PASSED"),
    (LOWER, 0.9, (0.7999, 0.95), "INCONCLUSIVE"),
    (LOWER, 0.8, (0.8, 0.8), "PASSED"),
    (LOWER, 0.8, (0.7, 0.9), "INCONCLUSIVE"),
    (LOWER, 0.7999, (0.7, 0.9), "REJECTED"),  # a value below is never excused by its interval
    (LOWER, 0.7999, (0.85, 0.9), "REJECTED"),
    (UPPER, 0.2, (0.1, 0.2999), "PASSED"),
    (UPPER, 0.2, (0.1, 0.3), "PASSED"),
    (UPPER, 0.2, (0.1, 0.3001), "INCONCLUSIVE"),
    (UPPER, 0.3, (0.3, 0.3), "PASSED"),
    (UPPER, 0.3, (0.2, 0.4), "INCONCLUSIVE"),
    (UPPER, 0.3001, (0.2, 0.4), "REJECTED"),
    (UPPER, 0.3001, (0.2, 0.25), "REJECTED"),
    (STRICT, 0.6, (0.5001, 0.7), "PASSED"),
    (STRICT, 0.6, (0.5, 0.7), "INCONCLUSIVE"),
    (STRICT, 0.5, (0.4, 0.6), "REJECTED"),
    (STRICT, 0.4, (0.3, 0.6), "REJECTED"),
]


@pytest.mark.parametrize(("line", "value", "interval", "expected"), BY_INTERVAL)
def test_by_interval_the_near_end_must_reach_the_threshold(
    line: Line, value: float, interval: tuple[float, float], expected: str
) -> None:
    assert verdict(line, found(value, *interval)) == expected


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        (at_least(0.5, evidence="point"), 0.5, "PASSED"),
        (at_least(0.5, evidence="point"), 0.4999, "REJECTED"),
        (at_most(0.3, evidence="point"), 0.3, "PASSED"),
        (at_most(0.3, evidence="point"), 0.3001, "REJECTED"),
        (above(0.5, evidence="point"), 0.5001, "PASSED"),
        (above(0.5, evidence="point"), 0.5, "REJECTED"),
        (at_least(-0.02, evidence="point"), -0.02, "PASSED"),
    ],
)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (NAN, NAN)])
def test_by_point_the_value_alone_decides(
    line: Line, value: float, expected: str, interval: tuple[float, float]
) -> None:
    assert verdict(line, found(value, *interval)) == expected


@pytest.mark.parametrize("evidence", ["interval", "point"])
@pytest.mark.parametrize("line", [at_least(0.0), at_most(1e9), above(-1e9)])
@pytest.mark.parametrize("nothing", [None, NOTHING, found(NAN, 0.0, 1.0), found(INF, INF, INF), found(-INF, 0, 0)])
def test_what_was_not_measured_never_passes(line: Line, evidence: str, nothing: Measurement | None) -> None:
    judged = judge(Line(**{**asdict(line), "evidence": evidence}), nothing)
    assert judged.verdict == "INCONCLUSIVE"
    assert judged.value is None


@pytest.mark.parametrize("line", [at_least(0.0), at_most(1.0), above(-1.0)])
def test_a_value_without_an_interval_does_not_pass_by_interval(line: Line) -> None:
    assert verdict(line, found(0.5)) == "INCONCLUSIVE"


def test_evidence_is_by_interval_and_a_line_fails_unless_something_else_is_said() -> None:
    line = at_least()
    assert (line.severity, line.evidence) == ("fail", "interval")
    measured = found(0.9)
    assert (measured.proportion, measured.unit) == (False, "pictures")


def test_a_check_repeats_the_line_and_what_was_measured() -> None:
    line = Line("log_loss", "train", "site=north", "<=", 0.3, "warn", "point")
    judged = judge(line, Measurement(0.25, (0.125, 0.5), 7, unit="groups"))
    assert judged == Check(
        "log_loss", "train", "site=north", "<=", 0.3, 0.25, 0.125, 0.5, 7, "point", "warn", "PASSED", None
    )
    unmeasured = judge(line, None)
    assert (unmeasured.value, unmeasured.ci_low, unmeasured.ci_high, unmeasured.n) == (None, None, None, 0)


def test_ends_that_are_not_numbers_become_null() -> None:
    judged = judge(at_least(), found(0.9, NAN, INF))
    assert (judged.value, judged.ci_low, judged.ci_high) == (0.9, None, None)
    assert judge(at_least(), found(0.9, -INF, NAN)).ci_low is None


def test_numbers_of_numpy_become_plain_ones() -> None:
    class Float(float):
        """Stands for numpy.float64, which is a float and not JSON's."""

    judged = judge(at_least(), Measurement(Float(0.9), (Float(0.8), Float(1.0)), 3))
    assert [type(value) for value in (judged.value, judged.ci_low, judged.ci_high)] == [float, float, float]


def test_a_check_is_json() -> None:
    body = judge(at_least(), found(0.9, 0.8, 1.0)).as_json()
    assert set(body) == {
        "metric", "split", "scope", "operator", "threshold", "value", "ci_low", "ci_high", "n", "evidence", "severity",
        "verdict", "advice",
    }  # fmt: skip
    assert body["verdict"] == "PASSED"
    assert body["advice"] is None


def test_a_sentence_names_what_where_how_much_and_what_was_wanted() -> None:
    assert judge(at_least(0.5), found(0.12, 0.04, 0.3, 25)).sentence() == (
        "recall of 'bad' on test: 0.12 (0.04 - 0.3, n 25), wanted >= 0.5"
    )
    assert judge(at_most(0.123456), found(0.234567, 0.111111, 0.555555)).sentence() == (
        "log_loss on train: 0.2346 (0.1111 - 0.5556, n 100), wanted <= 0.1235"
    )
    assert judge(above(0.5), found(0.4)).sentence() == "balanced_accuracy on test: 0.4 (n 100), wanted > 0.5"
    assert judge(at_least(), None).sentence() == "recall of 'bad' on test: not measured (n 0), wanted >= 0.8"


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (("PASSED",), "PASSED"),
        (("PASSED", "PASSED"), "PASSED"),
        (("PASSED", "INCONCLUSIVE"), "INCONCLUSIVE"),
        (("INCONCLUSIVE", "REJECTED"), "REJECTED"),
        (("REJECTED", "PASSED"), "REJECTED"),
        (("REJECTED", "INCONCLUSIVE", "PASSED"), "REJECTED"),
    ],
)
def test_rejected_wins_then_inconclusive(results: tuple[str, ...], expected: str) -> None:
    assert overall([check(result) for result in results]) == expected
    assert overall([check(result) for result in reversed(results)]) == expected
    assert overall([*(check(result) for result in results), check("REJECTED", "warn")]) == expected


def test_warnings_alone_are_no_gate() -> None:
    for lines in ([], [check("PASSED", "warn")], [check("REJECTED", "warn")]):
        with pytest.raises(BadInput) as raised:
            overall(lines)
        assert str(raised.value) == (
            "expected at least one gate line of severity fail, found none: set gate.min_recall or another"
        )


def test_failing_are_the_lines_that_decided() -> None:
    passed, doubtful, bad, worse = (
        check(result, scope=str(i)) for i, result in enumerate(("PASSED", "INCONCLUSIVE", "REJECTED", "REJECTED"))
    )
    warned = check("REJECTED", "warn")
    assert failing([passed, doubtful, bad, warned, worse]) == (bad, worse)
    assert failing([passed, doubtful, warned]) == (doubtful,)
    assert failing([passed, check("INCONCLUSIVE", "warn"), warned]) == ()
    with pytest.raises(BadInput):
        failing([warned])


def test_the_near_end_is_the_one_that_may_fail() -> None:
    assert near_end(at_least(), (0.1, 0.2)) == 0.1
    assert near_end(above(0.5), (0.1, 0.2)) == 0.1
    assert near_end(at_most(0.3), (0.1, 0.2)) == 0.2
    assert near_end(check("PASSED"), (0.1, 0.2)) == 0.1


@pytest.mark.parametrize(
    ("line", "below", "at", "beyond"),
    [(at_least(0.5), False, True, True), (above(0.5), False, False, True), (at_most(0.5), True, True, False)],
)
def test_an_operator_means_what_it_says(line: Line, below: bool, at: bool, beyond: bool) -> None:
    assert [holds(line, value) for value in (0.4999, 0.5, 0.5001)] == [below, at, beyond]
    assert not holds(line, NAN)


@pytest.mark.parametrize(("line", "value", "interval", "expected"), BY_INTERVAL)
def test_lines_read_from_a_file_are_judged_alike(
    line: Line, value: float, interval: tuple[float, float], expected: str
) -> None:
    """Their texts are equal to ours and not the same objects."""
    read = Line(**json.loads(json.dumps(asdict(line))))
    checks = [Check(**json.loads(json.dumps(judge(read, found(value, *interval)).as_json())))]
    assert checks[0] == judge(line, found(value, *interval))
    assert overall(checks) == expected
    assert failing(checks) == (() if expected == "PASSED" else tuple(checks))
    assert checks[0].sentence() == judge(line, found(value, *interval)).sentence()
    assert judge(Line(**{**asdict(read), "evidence": json.loads('"point"')}), found(value)).verdict == (
        "REJECTED" if expected == "REJECTED" else "PASSED"
    )


@pytest.mark.parametrize("value", [at_least(), NOTHING, check("PASSED")])
def test_lines_measurements_and_checks_are_values(value: Any) -> None:
    assert not hasattr(value, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "other")
