"""The figures of an evaluation as JSON values, each with its interval; NaN is null."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.evaluation import scores
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Measurement
from tasks.evaluation.measure import LOSSES, RANKINGS, f1_scores, gain, measure, rankings
from tasks.evaluation.metrics import OVERALL, as_json, confusion_matrix
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import BASELINES, GAINED, DecisionSpec

# of scores, a class's of each picture: a thousand draws of more would take over five seconds, five times in an
# evaluation, and only the value is given
_RANKED = 50_000


def by_split(evidence: Evidence, temperature: float, confidence: float) -> dict[str, Any]:
    """The test split's figures at the served operating point, with `argmax` and `splits` (train, validation) inside."""
    parts = {
        split: {
            **of_sample(sample, evidence, confidence),
            "calibration_error_before_temperature": as_json(_uncalibrated(sample, temperature)),
            "argmax": of_sample(sample.at_argmax(), evidence, confidence, decisions_only=True),
        }
        for split, sample in evidence.samples.items()
    }
    test = parts.pop("test")
    return {**test, **{f"{split}_accuracy": figures["accuracy"] for split, figures in parts.items()}, "splits": parts}


def of_sample(sample: Sample, evidence: Evidence, confidence: float, decisions_only: bool = False) -> dict[str, Any]:
    """Every metric of one sample, `intervals` of the same names, the confusion matrix and n.

    `decisions_only` leaves out those of probabilities, which no operating point changes.
    """
    classes = evidence.classes
    names = (*OVERALL, *(() if decisions_only else LOSSES))
    overall = {name: _measure(name, sample, None, evidence, confidence) for name in names}
    count = len(classes)
    each = {
        name: [_measure(name, sample, i, evidence, confidence) for i in range(count)]
        for name in ("recall", "precision")
    }
    each["f1"] = f1_scores(sample, count, evidence.grouped, confidence)
    drawn = count * len(sample) <= _RANKED
    for name in () if decisions_only else RANKINGS:
        *each[name], overall[f"macro_{name}"] = rankings(name, sample, count, evidence.grouped, confidence, drawn)
    return {
        **{name: as_json(found.value) for name, found in overall.items()},
        **{
            name: {label: as_json(m.value) for label, m in zip(classes, found, strict=True)}
            for name, found in each.items()
        },
        "intervals": {
            **{name: _ends(found) for name, found in overall.items()},
            **{
                name: {label: _ends(m) for label, m in zip(classes, found, strict=True)} for name, found in each.items()
            },
        },
        "confusion_matrix": confusion_matrix(sample.truth, sample.decided, len(classes)).tolist(),
        "n": len(sample),
    }


def baselines(evidence: Evidence, confidence: float) -> dict[str, Any]:
    """What the model must be worth, on test at argmax: each baseline's figures and our `gains` over it."""
    result: dict[str, Any] = {}
    ours, classes = evidence.test.at_argmax(), len(evidence.classes)
    for name in BASELINES:
        theirs = evidence.baseline(name)
        if theirs is None:
            continue
        gains = {metric: gain(metric, ours, theirs, classes, evidence.grouped, confidence) for metric in GAINED}
        result[name] = of_sample(theirs, evidence, confidence) | {
            "gains": {metric: _figure(found) for metric, found in gains.items()}
        }
    result["majority"]["label"] = evidence.classes[int(evidence.prior().argmax())]
    return result


def slices(evidence: Evidence, decision: DecisionSpec, confidence: float) -> dict[str, Any]:
    """Per slice of the test split: accuracy and every class's recall as served; `worst`: the one that does worst.

    Worst in the recall of the first watched class, else in accuracy.
    """
    watched = next((evidence.classes.index(w.label) for w in decision.watch), None)
    metric = "accuracy" if watched is None else "recall"
    found, worst = [], []
    for column, values in evidence.slice_values().items():
        for value in values:
            sample = evidence.test.where(column, value)
            ranked = _measure(metric, sample, watched, evidence, confidence)
            recall = [_measure("recall", sample, i, evidence, confidence) for i in range(len(evidence.classes))]
            row = {
                "scope": f"{column}={value}",
                "n": len(sample),
                "accuracy": _figure(_measure("accuracy", sample, None, evidence, confidence)),
                "recall": {label: _figure(m) for label, m in zip(evidence.classes, recall, strict=True)},
            }
            found.append(row)
            if not np.isnan(ranked.value):
                worst.append((ranked.value, row["scope"], _figure(ranked)))
    worst.sort(key=lambda one: one[:2])
    named = {"label": None if watched is None else evidence.classes[watched], "metric": metric}
    return {"rows": found, "worst": {"scope": worst[0][1], **named, **worst[0][2]} if worst else None}


def _measure(name: str, sample: Sample, label: int | None, evidence: Evidence, confidence: float) -> Measurement:
    return measure(name, sample, label, len(evidence.classes), evidence.grouped, confidence)


def _figure(found: Measurement) -> dict[str, Any]:
    return {"value": as_json(found.value), "interval": _ends(found), "n": found.n}


def _ends(found: Measurement) -> list[float | None]:
    return [as_json(end) for end in found.interval]


def _uncalibrated(sample: Sample, temperature: float) -> float:
    return scores.calibration_error(scores.without_temperature(sample.probabilities, temperature), sample.truth)
