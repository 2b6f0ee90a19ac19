"""What an evaluation says, as tables: the report page and the model card show the same, so that they cannot differ.

`evaluation` is what `evaluation.json` holds; null: undefined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.spec import BY_CLASS, LOSSES, RANKINGS, RATES

Body = Mapping[str, Any]
MANY = 25  # classes: more are neither drawn nor listed in a sentence
NAMED = 6  # classes or lines that a sentence or the columns of a table can hold
_NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "f1": "F1", "brier": "Brier score", "_": " "}


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with the ends of its interval, as a cell of a table."""

    value: float | None
    ends: Sequence[float | None] = (None, None)

    @property
    def interval(self) -> str:
        """Empty where there is none."""
        return "" if None in self.ends else f"{number(self.ends[0])}\u2013{number(self.ends[1])}"

    def __str__(self) -> str:
        return f"{number(self.value)} ({self.interval})" if self.interval else number(self.value)


class Verdict(str):
    """A verdict, as a cell of a table."""


Cell = str | int | Measured


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of each row names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; small ones keep their digits.

    >>> number(0.98049), number(0.0000123), number(1234), number(None)
    ('0.980', '1.23e-05', '1,234', 'undefined')
    """
    if value is None or math.isnan(value):
        return "undefined"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.{digits}g}"


def beside(value: float | None, threshold: float) -> str:
    """A value with as many digits as show on which side of the threshold it stands.

    >>> beside(0.98049, 0.8), beside(0.79999, 0.8)
    ('0.9805', '0.79999')
    """
    if value is None or math.isnan(value):
        return "undefined"
    texts = (f"{value:#.{digits}g}" for digits in range(4, 18))
    return next((t for t in texts if np.sign(float(t) - threshold) == np.sign(value - threshold)), repr(value))


def words(metric: str) -> str:
    for name, word in _NAMES.items():
        metric = metric.replace(name, word)
    return metric


def measured(source: Body, name: str, label: str | None = None) -> Measured:
    """A metric of `metrics`, of one of its splits or of a baseline."""
    value, ends = source[name], source["intervals"].get(name, (None, None))
    return Measured(value, ends) if label is None else Measured(value[label], ends[label])


def watched(evaluation: Body) -> tuple[str, ...]:
    decision = evaluation["configuration"].get("decision") or {}
    return tuple(watch["label"] for watch in decision.get("watch") or ())


def gate_table(evaluation: Body) -> Table:
    """Lines that are not met come first, those that decide before warnings."""
    checks = sorted(evaluation["checks"], key=lambda c: (c["severity"] != "fail", c["verdict"] != "REJECTED"))
    checks.sort(key=lambda c: c["verdict"] == "PASSED")
    header = ("line", "value", "interval", "wanted", "n", "verdict", "evidence", "what next")
    return Table("Lines of the gate", header, tuple(map(_gate_row, checks)))


def _gate_row(check: Body) -> tuple[Cell, ...]:
    low, high, threshold = check["ci_low"], check["ci_high"], check["threshold"]
    interval = "" if low is None or high is None else f"{beside(low, threshold)}\u2013{beside(high, threshold)}"
    sign = check["operator"].replace(">=", "\u2265").replace("<=", "\u2264")
    shown = (line_name(check), beside(check["value"], threshold), interval, f"{sign} {threshold:.4g}")
    return *shown, check["n"], Verdict(check["verdict"]), check["evidence"], check["advice"] or ""


def line_name(check: Body) -> str:
    of = "" if check["scope"] == "overall" else f" of {check['scope']}"
    only = " (a warning only)" if check["severity"] == "warn" else ""
    return f"{words(check['metric'])}{of} on {check['split']}{only}"


def overall_table(evaluation: Body) -> Table:
    test = evaluation["metrics"]
    parts: dict[str, Body] = {"test": test, "test at argmax": test["argmax"], **test["splits"]}
    if not evaluation["rule"]:
        del parts["test at argmax"]  # it is what is served
    names = (*RATES, *(f"macro_{n}" for n in RANKINGS), *LOSSES, "calibration_error_before_temperature")
    rows = [
        (words(n), *(measured(part, n) if n in part else "" for part in parts.values())) for n in names if n in test
    ]
    pictures = ("pictures", *(number(part["n"]) for part in parts.values()))
    return Table("Overall, as served where nothing else is said", ("figure", *parts), (*rows, pictures))


def class_table(evaluation: Body) -> Table:
    test = evaluation["metrics"]
    columns: dict[str, tuple[Body, str]] = {words(name): (test, name) for name in BY_CLASS}
    if evaluation["rule"]:
        columns |= {f"{words(name)} at argmax": (test["argmax"], name) for name in BY_CLASS}
    columns |= {words(name): (test, name) for name in RANKINGS if name in test}
    rows = [
        (label, sum(counts), *(measured(part, name, label) for part, name in columns.values()))
        for label, counts in zip(evaluation["classes"], test["confusion_matrix"], strict=True)
    ]
    without = "" if RANKINGS[0] in test else "; too many classes and pictures for ROC-AUC and PR-AUC"
    return Table(f"Per class on test{without}", ("class", "n", *columns), tuple(rows))


def slice_table(evaluation: Body) -> Table | None:
    """The worst slice is named in the caption. None where the data has no slices."""
    labels, worst = watched(evaluation) or evaluation["classes"][:NAMED], evaluation["slices"]["worst"]
    rows = []
    for row in evaluation["slices"]["rows"]:
        found = (row["accuracy"], *(row["recall"][label] for label in labels))
        rows.append((row["scope"], row["n"], *(Measured(one["value"], one["interval"]) for one in found)))
    header = ("slice", "n", "accuracy", *(f"recall of {label}" for label in labels))
    caption = "Slices of test"
    if worst:
        of = "" if worst["label"] is None else f" of {worst['label']}"
        figure = Measured(worst["value"], worst["interval"])
        caption += f". Worst: {worst['scope']}, {words(worst['metric'])}{of} {figure}, n {worst['n']}"
    return Table(caption, header, tuple(rows)) if rows else None


def counts_table(evaluation: Body) -> Table | None:
    """None for an evaluation that does not know them."""
    splits: Mapping[str, Mapping[str, int]] = evaluation["counts"] or {}
    rows: list[tuple[Cell, ...]] = []
    for label in evaluation["classes"]:
        found = [counts.get(label, 0) for counts in splits.values()]
        rows.append((label, *found, sum(found)))
    totals = [sum(counts.values()) for counts in splits.values()]
    rows.append(("all classes", *totals, sum(totals)))
    return Table("Pictures", ("class", *splits, "all"), tuple(rows)) if splits else None
