"""Which lines hold for a run, and what each of them measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from serving.errors import BadInput
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Line, Measurement
from tasks.evaluation.intervals import UNKNOWN
from tasks.evaluation.measure import gain, gap, measure
from tasks.evaluation.spec import BY_CLASS, GAINS, GAPS, RANKINGS, DecisionSpec, GateSpec

# largest difference of a probability and of a logit that rounding explains; int8 changes single pictures by far more
# without being worse, so there it only warns: that file is judged by its own figures
PARITY = {"fp32": (1e-4, 1e-3), "fp16": (0.05, 0.05), "int8": (0.3, 0.3)}
_MEGABYTE = 1e6

SliceValues = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a line's `scope` means: a class index or all, on a slice or everything."""

    label: int | None
    column: str | None = None
    value: str = ""


def parse_scope(text: str, classes: tuple[str, ...], slices: SliceValues) -> Scope:
    """`overall`, CLASS, COLUMN=VALUE, or CLASS in COLUMN=VALUE. Raises BadInput naming what there is."""
    if text == "overall":
        return Scope(None)
    if text in classes:
        return Scope(classes.index(text))
    whole = _slice(text, slices)
    if whole is not None:
        return Scope(None, *whole)
    for label in sorted(classes, key=len, reverse=True):  # of two that fit, the longer is what was meant
        part = _slice(text.removeprefix(f"{label} in "), slices) if text.startswith(f"{label} in ") else None
        if part is not None:
            return Scope(classes.index(label), *part)
    known = ", ".join([*classes, *(f"{column}=..." for column in slices)])
    raise BadInput(f"expected overall, or one of {known}, as a gate line's scope, found {text}: correct gate")


def wanted_lines(gate: GateSpec, classes: tuple[str, ...], slices: SliceValues) -> tuple[Line, ...]:
    """The lines the user wrote: by interval; `COLUMN=*` becomes a line for every value.

    Raises BadInput for a class or a slice that does not exist.
    """
    lines = [Line("accuracy", "test", "overall", ">=", gate.min_accuracy)] if gate.min_accuracy is not None else []
    if gate.min_macro_recall is not None:
        lines.append(Line("macro_recall", "test", "overall", ">=", gate.min_macro_recall))
    recalls = gate.min_recall if isinstance(gate.min_recall, dict) else dict.fromkeys(classes, gate.min_recall)
    lines += [Line("recall", "test", label, ">=", value) for label, value in recalls.items() if value is not None]
    for spec in gate.lines:
        line = Line(**spec.model_dump() | ({"split": "validation"} if spec.metric in GAPS else {}))
        scope = parse_scope(line.scope, classes, slices)
        every = scope.column is not None and scope.value == "*"
        lines += [_for_value(line, value) for value in slices[str(scope.column)]] if every else [line]
    for line in lines:
        _check_scope(line, classes, slices)
    return tuple(lines)


def built_in_lines(
    decision: DecisionSpec, classes: tuple[str, ...], prevalence: Mapping[str, float]
) -> tuple[Line, ...]:
    """What every model must show, by value: better than chance, no class mostly missed, no watched class cried wolf."""
    return (
        Line("balanced_accuracy", "test", "overall", ">", 1 / len(classes), evidence="point"),
        *(Line("recall", "test", label, ">=", 0.5, evidence="point") for label in classes),
        *(
            Line("precision", "test", watch.label, ">", prevalence[watch.label], evidence="point")
            for watch in decision.watch
        ),
    )


def parity_lines(precision: str) -> tuple[Line, ...]:
    """The exported file must agree with the trained network."""
    probability, logit = PARITY[precision]
    severity = "warn" if precision == "int8" else "fail"
    return (
        Line("parity", "test", "overall", "<=", probability, severity, "point"),
        Line("parity_logits", "test", "overall", "<=", logit, severity, "point"),
    )


def measured(line: Line, evidence: Evidence, confidence: float) -> Measurement | None:
    """What the line's metric is on this evidence; None where it cannot be measured."""
    classes, grouped = len(evidence.classes), evidence.grouped
    if line.metric in GAPS:
        parts = evidence.samples["train"], evidence.samples["validation"]
        return gap(line.metric.removesuffix("_gap"), *parts, classes, grouped, confidence)
    if line.metric in GAINS:
        metric, _, baseline = line.metric.partition("_over_")
        theirs = evidence.baseline(baseline)
        if theirs is None:
            return None
        return gain(metric, evidence.test.at_argmax(), theirs, classes, grouped, confidence)
    if line.metric in ("parity", "parity_logits"):
        return Measurement(getattr(evidence.machine, line.metric), UNKNOWN, len(evidence.test))
    if line.metric == "model_size_mb":
        exact = evidence.size / _MEGABYTE
        return Measurement(exact, (exact, exact), 1, unit="files")
    if line.metric == "latency_ms":
        runs = np.array(evidence.machine.latencies_ms)
        median = float(np.median(runs)) if len(runs) else float("nan")
        return Measurement(median, intervals.median_ends(runs, confidence), len(runs), unit="runs")
    scope = parse_scope(line.scope, evidence.classes, evidence.slice_values())
    sample = evidence.samples[line.split]
    if scope.column is not None:
        sample = sample.where(scope.column, scope.value)
    return measure(line.metric, sample, scope.label, classes, grouped, confidence)


def _slice(text: str, slices: SliceValues) -> tuple[str, str] | None:
    """COLUMN and VALUE of `COLUMN=VALUE`, if there is such a column; the value may be any text."""
    return next(((c, text.removeprefix(f"{c}=")) for c in slices if text.startswith(f"{c}=")), None)


def _check_scope(line: Line, classes: tuple[str, ...], slices: SliceValues) -> None:
    scope = parse_scope(line.scope, classes, slices)
    if line.metric not in RANKINGS and (line.metric in BY_CLASS) != (scope.label is not None):
        wanted = "of a class" if line.metric in BY_CLASS else "of all classes"
        raise BadInput(f"expected a scope {wanted} for {line.metric}, found {line.scope}: correct gate")
    if scope.column is not None and scope.value not in slices[scope.column]:
        raise BadInput(
            f"expected one of {', '.join(slices[scope.column])} as {scope.column} in a gate line's scope, found "
            f"{scope.value}, which no test picture has: correct gate, or add pictures"
        )


def _for_value(line: Line, value: str) -> Line:
    return replace(line, scope=line.scope.removesuffix("*") + value)
