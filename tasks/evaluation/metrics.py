"""Metrics from counts: confusion matrices int [..., C, C] (row = true class, column = decided class).

Every function takes one matrix or a stack of them, so that a bootstrap is one call. Undefined is NaN, never 0 or 1;
a mean over classes is NaN as soon as one class's value is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Metric = Callable[[Ints], Floats]


def confusion_matrix(truth: Ints, decided: Ints, classes: int) -> Ints:
    """int64 [C, C] from class indices [N]; a picture decided to be -1 (a class unknown here) counts nowhere."""
    known = decided >= 0
    counts = np.bincount(truth[known] * classes + decided[known], minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def confusion_matrices(truth: Ints, decided: Ints, classes: int, weights: Floats) -> Ints:
    """The same of each row of `weights` [D, N], how often each picture is there; int64 [D, C, C]."""
    cell_of = np.where(decided >= 0, truth * classes + decided, -1)
    rows = np.argsort(cell_of, kind="stable")[np.count_nonzero(decided < 0) :]
    cells, starts = np.unique(cell_of[rows], return_index=True)
    stack = np.zeros((len(weights), classes * classes), np.int64)
    if len(cells):
        stack[:, cells] = np.add.reduceat(weights[:, rows], starts, axis=1)
    return stack.reshape(-1, classes, classes)


def accuracy(confusion: Ints) -> Floats:
    return ratio(_hits(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def recall_by_class(confusion: Ints) -> Floats:
    """Of each class's pictures, the share decided so.

    >>> recall_by_class(np.array([[8, 2], [1, 9]])).tolist()
    [0.8, 0.9]
    """
    return ratio(_hits(confusion), confusion.sum(axis=-1))


def precision_by_class(confusion: Ints) -> Floats:
    """Of the pictures decided to be a class, the share that are."""
    return ratio(_hits(confusion), confusion.sum(axis=-2))


def f1_by_class(confusion: Ints) -> Floats:
    """2 TP / (2 TP + FP + FN); NaN for a class neither present nor decided."""
    return ratio(2 * _hits(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


BY_CLASS: dict[str, Metric] = {"recall": recall_by_class, "precision": precision_by_class, "f1": f1_by_class}


def macro(by_class: Metric) -> Metric:
    """The plain mean over classes of a metric by class."""
    return lambda confusion: by_class(confusion).mean(axis=-1)


def weighted(by_class: Metric) -> Metric:
    """The mean over classes weighted by each class's pictures; a class without pictures weighs nothing."""

    def mean(confusion: Ints) -> Floats:
        n = confusion.sum(axis=-1)
        return ratio(np.where(n > 0, by_class(confusion) * n, 0.0).sum(axis=-1), n.sum(axis=-1))

    return mean


OVERALL: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": macro(recall_by_class),
    **{f"macro_{name}": macro(metric) for name, metric in BY_CLASS.items()},
    **{f"weighted_{name}": weighted(metric) for name, metric in BY_CLASS.items()},
}


def as_json(value: float) -> float | None:
    """A figure as JSON knows it: NaN is null."""
    return None if np.isnan(value) else float(value)


def _hits(confusion: Ints) -> Ints:
    diagonal: Ints = np.diagonal(confusion, axis1=-2, axis2=-1)
    return diagonal


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """NaN where there is nothing to divide by."""
    above, below = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    share: Floats = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return share
