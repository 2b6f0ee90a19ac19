"""Which lines hold for a run, and what each of them measures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from serving.errors import BadInput
from tasks.evaluation import intervals, metrics
from tasks.evaluation.gate import Line, Measurement
from tasks.evaluation.intervals import Interval
from tasks.evaluation.metrics import Decisions, Ints
from tasks.evaluation.spec import DecisionSpec, GateSpec


def wanted_lines(gate: GateSpec, classes: tuple[str, ...]) -> tuple[Line, ...]:
    """The lines the user wrote: by interval. Raises BadInput for a class that does not exist."""
    lines = [Line("accuracy", "test", "overall", ">=", gate.min_accuracy)] if gate.min_accuracy is not None else []
    if gate.min_macro_recall is not None:
        lines.append(Line("macro_recall", "test", "overall", ">=", gate.min_macro_recall))
    recalls = gate.min_recall if isinstance(gate.min_recall, dict) else dict.fromkeys(classes, gate.min_recall)
    lines += [Line("recall", "test", label, ">=", value) for label, value in recalls.items() if value is not None]
    lines += [Line(**line.model_dump()) for line in gate.lines]
    unknown = sorted({line.scope for line in lines} - {"overall", *classes})
    if unknown:
        raise BadInput(f"expected gate lines on classes {', '.join(classes)}, found {', '.join(unknown)}: correct gate")
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


def measure(
    line: Line, decisions: Decisions, classes: tuple[str, ...], grouped: bool, confidence: float
) -> Measurement:
    """The line's metric on these decisions, with its interval. `grouped`: units are groups, and n counts them."""
    truth, decided = decisions.truth, decisions.decided
    confusion = metrics.confusion_matrix(truth, decided, len(classes))
    rows = np.arange(len(truth))
    if line.metric in ("accuracy", "recall", "precision"):
        index = None if line.scope == "overall" else classes.index(line.scope)
        if line.metric == "recall":
            rows = rows[truth == index]
        elif line.metric == "precision":
            rows = rows[decided == index]
        hits, n = int((truth == decided)[rows].sum()), len(rows)
        value = hits / n if n else float("nan")
        interval = intervals.wilson(hits, n, confidence)
        if not grouped or not n:
            return Measurement(value, interval, n, proportion=True)
        return _grouped(line, decisions, rows, value, classes, confidence)
    value = _statistic(line, truth, decided, classes)
    if grouped and len(rows):
        return _grouped(line, decisions, rows, value, classes, confidence)
    if line.metric in ("macro_recall", "balanced_accuracy"):
        interval = intervals.jeffreys_macro(np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), confidence)
    else:
        strata = [rows[truth == index] for index in range(len(classes))]
        drawn = intervals.bootstrap(strata, lambda r: _statistic(line, truth[r], decided[r], classes), confidence)
        # a bootstrap sees no error it has not seen: a few perfect pictures would prove perfection
        fewest = min(len(s) for s in strata) if line.scope == "overall" else len(strata[classes.index(line.scope)])
        interval = intervals.widest(drawn, intervals.wilson(value * fewest, fewest, confidence))
    return Measurement(value, interval, len(rows))


def _grouped(
    line: Line, decisions: Decisions, rows: Ints, value: float, classes: tuple[str, ...], confidence: float
) -> Measurement:
    members: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        members[decisions.units[row]].append(int(row))
    groups = [np.array(group) for group in members.values()]

    def statistic(chosen: Ints) -> float:
        return _statistic(line, decisions.truth[chosen], decisions.decided[chosen], classes)

    drawn = intervals.group_bootstrap(groups, statistic, confidence)
    least: Interval = intervals.wilson(value * len(groups), len(groups), confidence)
    return Measurement(value, intervals.widest(drawn, least), len(groups), unit="groups")


def _statistic(line: Line, truth: Ints, decided: Ints, classes: tuple[str, ...]) -> float:
    confusion = metrics.confusion_matrix(truth, decided, len(classes))
    if line.metric == "accuracy":
        return metrics.accuracy(confusion)
    name = line.metric.removeprefix("macro_").replace("balanced_accuracy", "recall")
    by_class = {
        "recall": metrics.recall_by_class,
        "precision": metrics.precision_by_class,
        "f1": metrics.f1_by_class,
    }[name](confusion)
    return metrics.macro(by_class) if line.scope == "overall" else by_class[classes.index(line.scope)]
