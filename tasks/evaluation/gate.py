"""The gate: lines as data, each judged by what was measured; nothing passes by being absent.

A line with `interval` evidence is PASSED if the interval's near end reaches the threshold, REJECTED if even the
value does not, else INCONCLUSIVE. With `point` evidence the value decides. What was not measured is INCONCLUSIVE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serving.errors import BadInput
from tasks.evaluation.intervals import Interval, wilson

Verdict = Literal["PASSED", "REJECTED", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Line:
    """What must hold. `scope` is `overall` or a class; `operator` is `>=`, `>` or `<=`."""

    metric: str
    split: str
    scope: str
    operator: str
    threshold: float
    severity: str = "fail"
    evidence: str = "interval"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured. `n` counts the independent units behind it; NaN is "not measured".

    `proportion`: the interval is Wilson's, so that of another n is known exactly.
    """

    value: float
    interval: Interval
    n: int
    proportion: bool = False
    unit: str = "pictures"  # what n counts: pictures or groups


@dataclass(frozen=True, slots=True)
class Check:
    """A line, judged. Its fields are the JSON contract."""

    metric: str
    split: str
    scope: str
    operator: str
    threshold: float
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    evidence: str
    severity: str
    verdict: Verdict
    advice: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(line: Line, measured: Measurement | None, confidence: float) -> Check:
    """The verdict of one line. Pure: the same numbers always give the same verdict.

    >>> line = Line("recall", "test", "defective", ">=", 0.8)
    >>> judge(line, Measurement(0.9, (0.85, 0.93), 205, True), 0.95).verdict
    'PASSED'
    """
    if measured is None or math.isnan(measured.value):
        return _check(
            line, measured, "INCONCLUSIVE", f"not measured: no {line.split} pictures of {_whom(line)} to tell"
        )
    low, high = measured.interval
    near = low if line.operator != "<=" else high
    if line.evidence == "point":
        passed = _holds(line, measured.value)
        doubt = passed and not math.isnan(near) and not _holds(line, near)
        advice = f"the value passes, its interval does not: {_more(line, measured, confidence)}" if doubt else None
        return _check(line, measured, "PASSED" if passed else "REJECTED", advice if passed else _mend(line, measured))
    if not _holds(line, measured.value):
        return _check(line, measured, "REJECTED", _mend(line, measured))
    if not math.isnan(near) and _holds(line, near):
        return _check(line, measured, "PASSED", None)
    return _check(line, measured, "INCONCLUSIVE", _more(line, measured, confidence))


def overall(checks: Sequence[Check]) -> Verdict:
    """Any failing line REJECTED wins, then INCONCLUSIVE; `warn` lines never decide. Raises BadInput for no lines."""
    verdicts = {check.verdict for check in checks if check.severity == "fail"}
    if not verdicts:
        raise BadInput("expected at least one gate line of severity fail, found none: set gate.min_recall or another")
    if "REJECTED" in verdicts:
        return "REJECTED"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASSED"


def units_to_decide(value: float, threshold: float, n: int, confidence: float, upper: bool = False) -> int | None:
    """How many more units a proportion needs, at the same value, before Wilson's interval clears the threshold.

    None where no number would, because the value is not beyond the threshold.

    >>> units_to_decide(0.85, 0.8, 100, 0.95)
    146
    """
    if (value >= threshold) if upper else (value <= threshold):
        return None

    def clear(size: int) -> bool:
        low, high = wilson(value * size, size, confidence)
        return high <= threshold if upper else low >= threshold

    most = max(1, n)
    while not clear(most):
        most *= 2
    least = max(0, n - 1)
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (least, middle) if clear(middle) else (middle, most)
    return max(0, most - n)


def _holds(line: Line, value: float) -> bool:
    if line.operator == ">=":
        return value >= line.threshold
    if line.operator == ">":
        return value > line.threshold
    return value <= line.threshold


def _check(line: Line, measured: Measurement | None, verdict: Verdict, advice: str | None) -> Check:
    low, high = measured.interval if measured else (math.nan, math.nan)
    return Check(
        **asdict(line),
        value=_finite(measured.value if measured else math.nan),
        ci_low=_finite(low),
        ci_high=_finite(high),
        n=measured.n if measured else 0,
        verdict=verdict,
        advice=advice,
    )


def _more(line: Line, measured: Measurement, confidence: float) -> str:
    """How many more pictures would decide, at the same value."""
    upper = line.operator == "<="
    if measured.proportion:
        more = units_to_decide(measured.value, line.threshold, measured.n, confidence, upper)
    else:  # other intervals shrink with the square root of n
        near = measured.interval[1 if upper else 0]
        if math.isnan(near):
            return f"no interval: add {line.split} pictures of every class"
        distance, width = abs(measured.value - line.threshold), abs(measured.value - near)
        more = None if not distance else max(1, math.ceil(measured.n * ((width / distance) ** 2 - 1)))
    if more is None:
        return f"the value stands on the threshold: no number of {line.split} {measured.unit} would decide"
    return f"about {more} more {line.split} {measured.unit} of {_whom(line)} would decide, at the same value"


def _mend(line: Line, measured: Measurement) -> str:
    gap = abs(measured.value - line.threshold)
    if line.metric == "parity":
        return "the exported file and the trained network disagree: training and serving do not prepare pictures alike"
    if line.metric.endswith("_vs_champion"):
        return f"worse than the champion by {gap:.4f} more than the margin allows: the champion stays"
    if line.operator == "<=":
        return f"{gap:.4f} too high"
    if line.metric == "recall":
        return f"short by {gap:.4f}: add pictures of {_whom(line)}, or watch it (decision.watch) with a wanted recall"
    return f"short by {gap:.4f}: train longer, add pictures, or ask for less (gate)"


def _whom(line: Line) -> str:
    return "any class" if line.scope == "overall" else f"{line.scope!r}"


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
