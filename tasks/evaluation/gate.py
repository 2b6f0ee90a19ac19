"""The gate: lines as data, each judged by what was measured; nothing passes by being absent.

A line with `interval` evidence is PASSED if the interval's near end reaches the threshold, REJECTED if even the
value does not, else INCONCLUSIVE. With `point` evidence the value decides. What was not measured is INCONCLUSIVE.
Everything here is arithmetic on a few numbers: `thaw gate` replays it, and mutants of it are killed by its tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serving.errors import BadInput

Verdict = Literal["PASSED", "REJECTED", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Line:
    """What must hold. `operator` is `>=`, `>` or `<=`.

    `scope`: `overall`, a class, a slice (`site=north`) or a class in a slice (`defective in site=north`).
    """

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
    interval: tuple[float, float]
    n: int
    proportion: bool = False
    unit: str = "pictures"  # what n counts: pictures, groups or runs


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
    advice: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """The line in words, for a message.

        >>> judge(Line("recall", "test", "bad", ">=", 0.5), Measurement(0.12, (0.04, 0.3), 25)).sentence()
        "recall of 'bad' on test: 0.12 (0.04 - 0.3, n 25), wanted >= 0.5"
        """
        of = "" if self.scope == "overall" else f" of {self.scope!r}"
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        ends = "" if self.ci_low is None else f"{self.ci_low:.4g} - {self.ci_high:.4g}, "
        wanted = f"wanted {self.operator} {self.threshold:.4g}"
        return f"{self.metric}{of} on {self.split}: {value} ({ends}n {self.n}), {wanted}"


def judge(line: Line, measured: Measurement | None) -> Check:
    """The verdict of one line. Pure: the same numbers always give the same verdict.

    >>> line = Line("recall", "test", "defective", ">=", 0.8)
    >>> judge(line, Measurement(0.9, (0.85, 0.93), 205)).verdict
    'PASSED'
    """
    low, high = measured.interval if measured else (math.nan, math.nan)
    return Check(
        **asdict(line),
        value=_finite(measured.value if measured else math.nan),
        ci_low=_finite(low),
        ci_high=_finite(high),
        n=measured.n if measured else 0,
        verdict=_verdict(line, measured),
    )


def overall(checks: Sequence[Check]) -> Verdict:
    """Any failing line REJECTED wins, then INCONCLUSIVE; `warn` lines never decide. Raises BadInput for no lines."""
    verdicts = {check.verdict for check in checks if check.severity == "fail"}
    if not verdicts:
        raise BadInput("expected at least one gate line of severity fail, found none: set gate.min_recall or another")
    if "REJECTED" in verdicts:
        return "REJECTED"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASSED"


def failing(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The lines that decided against a model: those as bad as the overall verdict."""
    verdict = overall(checks)
    return tuple(c for c in checks if c.severity == "fail" and c.verdict == verdict) if verdict != "PASSED" else ()


def holds(line: Line | Check, value: float) -> bool:
    """Whether a value satisfies a line's operator and threshold; NaN never does."""
    if line.operator == ">=":
        return value >= line.threshold
    if line.operator == ">":
        return value > line.threshold
    return value <= line.threshold


def near_end(line: Line | Check, interval: tuple[float, float]) -> float:
    """The end of an interval that lies nearer to failing."""
    return interval[1] if line.operator == "<=" else interval[0]


def _verdict(line: Line, measured: Measurement | None) -> Verdict:
    if measured is None or not math.isfinite(measured.value):
        return "INCONCLUSIVE"
    if not holds(line, measured.value):
        return "REJECTED"
    if line.evidence == "point" or holds(line, near_end(line, measured.interval)):
        return "PASSED"
    return "INCONCLUSIVE"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
