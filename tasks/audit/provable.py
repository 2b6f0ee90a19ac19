"""What the held-out pictures can prove, before anything is trained: what a model without a single error would show."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from tasks.data.dataset import Dataset, Subset, subset
from tasks.evaluation.advice import units_to_decide
from tasks.evaluation.gate import Line, holds, near_end
from tasks.evaluation.intervals import wilson
from tasks.evaluation.lines import parse_scope, wanted_lines
from tasks.evaluation.measure import ON_PICTURES, measure
from tasks.evaluation.outputs import sample_of
from tasks.evaluation.spec import GateSpec


@dataclass(frozen=True, slots=True)
class ClassProof:
    """`units`: independent test pictures, or groups. `best_recall`: the interval's lower end at no error."""

    label: str
    units: int
    best_recall: float


@dataclass(frozen=True, slots=True)
class LineProof:
    """A line of the gate: `best` is the end of a perfect model's interval that must reach the threshold.

    `more`: test units that are missing for it, 0 where it can be shown, None where no number is known. `errors`: how
    many errors it allows, None where it is no proportion of pictures.
    """

    line: str
    units: int
    best: float | None
    provable: bool
    more: int | None
    errors: int | None


@dataclass(frozen=True, slots=True)
class Proofs:
    unit: str  # pictures or groups
    confidence: float
    classes: tuple[ClassProof, ...]
    lines: tuple[LineProof, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def what_can_be_proved(dataset: Dataset, gate: GateSpec) -> Proofs:
    """Of every class, and of every line of the gate that is judged on test pictures by its interval.

    Raises BadInput: a line about a class or slice that does not exist.
    """
    test = subset(dataset, "test")
    slices = {found.column: tuple(sorted(set(found.values))) for found in test.slices}
    lines = [
        line
        for line in wanted_lines(gate, dataset.classes, slices)
        if line.split == "test" and line.evidence == "interval" and line.metric in ON_PICTURES
    ]
    return Proofs(
        "groups" if dataset.grouped else "pictures",
        gate.confidence,
        tuple(_class_proof(dataset, test, i, gate.confidence) for i in range(len(dataset.classes))),
        tuple(_line_proof(line, dataset, test, slices, gate.confidence) for line in lines),
    )


def errors_allowed(units: int, threshold: float, confidence: float) -> int | None:
    """The most errors with which a proportion of `units` still shows the threshold; None where even none is too many.

    >>> errors_allowed(100, 0.8, 0.95), errors_allowed(10, 0.8, 0.95)
    (12, None)
    """
    enough = bisect_left(range(units + 1), True, key=lambda right: wilson(right, units, confidence)[0] >= threshold)
    return units - enough if enough <= units else None


def _class_proof(dataset: Dataset, test: Subset, label: int, confidence: float) -> ClassProof:
    own = np.flatnonzero(test.labels == label)
    units = len({test.units[i] for i in own}) if dataset.grouped else len(own)
    return ClassProof(dataset.classes[label], units, wilson(units, units, confidence)[0] if units else 0.0)


def _line_proof(
    line: Line, dataset: Dataset, test: Subset, slices: dict[str, tuple[str, ...]], confidence: float
) -> LineProof:
    perfect = np.eye(len(dataset.classes), dtype=np.float32)[test.labels]
    sample = sample_of(test, perfect, test.labels)
    scope = parse_scope(line.scope, dataset.classes, slices)
    if scope.column is not None:
        sample = sample.where(scope.column, scope.value)
    found = measure(line.metric, sample, scope.label, len(dataset.classes), dataset.grouped, confidence)
    best = near_end(line, found.interval)  # NaN where it cannot be measured, e.g. a slice without a class
    provable = bool(holds(line, best))
    counted = found.proportion and line.operator == ">="
    more: int | None = 0 if provable else None
    if counted and not provable and line.threshold < 1:
        more = units_to_decide(1.0, line.threshold, found.n, confidence)
    name = line.metric + ("" if line.scope == "overall" else f" of {line.scope}")
    errors = errors_allowed(found.n, line.threshold, confidence) if counted else None
    wanted = f"{name} {line.operator} {line.threshold:g}"
    return LineProof(wanted, found.n, float(best) if isfinite(best) else None, provable, more, errors)
