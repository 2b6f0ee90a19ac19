"""Metrics from counts. Undefined is NaN, never 0 or 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was true and what was decided, class indices [N], and each picture's unit (group or picture)."""

    truth: Ints
    decided: Ints
    units: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.truth)


def confusion_matrix(truth: Ints, decided: Ints, classes: int) -> Ints:
    """int64 [C, C]: row = true class, column = decided class."""
    counts = np.bincount(truth * classes + decided, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Ints) -> float:
    return _ratio(np.trace(confusion), confusion.sum())


def recall_by_class(confusion: Ints) -> tuple[float, ...]:
    """Of each class's pictures, the share decided so.

    >>> recall_by_class(np.array([[8, 2], [1, 9]]))
    (0.8, 0.9)
    """
    return tuple(_ratio(hit, n) for hit, n in zip(np.diag(confusion), confusion.sum(axis=1), strict=True))


def precision_by_class(confusion: Ints) -> tuple[float, ...]:
    """Of the pictures decided to be a class, the share that are."""
    return tuple(_ratio(hit, n) for hit, n in zip(np.diag(confusion), confusion.sum(axis=0), strict=True))


def f1_by_class(confusion: Ints) -> tuple[float, ...]:
    """2 TP / (2 TP + FP + FN); NaN for a class neither present nor decided."""
    totals = confusion.sum(axis=1) + confusion.sum(axis=0)
    return tuple(_ratio(2 * hit, n) for hit, n in zip(np.diag(confusion), totals, strict=True))


def macro(values: tuple[float, ...]) -> float:
    """The mean over classes; NaN as soon as one class's value is undefined."""
    return float(np.mean(values))


def log_loss(probabilities: npt.NDArray[np.floating], truth: Ints) -> float:
    """Mean negative log of the true class's probability, natural log; probabilities are kept above 1e-15."""
    if not len(truth):
        return float("nan")
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.clip(chosen, 1e-15, None)).mean())


def summary(truth: Ints, decided: Ints, classes: tuple[str, ...]) -> dict[str, object]:
    """The figures of one split at one operating point, as JSON values (NaN as null)."""
    confusion = confusion_matrix(truth, decided, len(classes))
    by_class = {
        "recall": recall_by_class(confusion),
        "precision": precision_by_class(confusion),
        "f1": f1_by_class(confusion),
    }
    return {
        "accuracy": as_json(accuracy(confusion)),
        "balanced_accuracy": as_json(macro(by_class["recall"])),
        **{f"macro_{name}": as_json(macro(values)) for name, values in by_class.items()},
        **{name: dict(zip(classes, map(as_json, values), strict=True)) for name, values in by_class.items()},
        "confusion_matrix": confusion.tolist(),
        "n": int(confusion.sum()),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def as_json(value: float) -> float | None:
    """A figure as JSON knows it: NaN is null."""
    return None if np.isnan(value) else value
