"""The served operating point, chosen on validation: a threshold that keeps a promise, not one that happened to fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from serving.artifact import Rule, Scores, Watch
from serving.errors import BadInput
from tasks.evaluation.intervals import group_numbers
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.spec import DecisionSpec

CONFIDENCE = 0.95  # one-sided
_STEP = 1.1  # from one number of decided units to the next at which a precision is tested


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """What each threshold on one class's probability finds. `thresholds` [K] fall; the counts are of scores >= each.

    Units are pictures, or groups where there are groups: a bound then stands on as many as there are, at the same
    share, because two pictures of one group may be no more than one.
    """

    thresholds: Floats
    found: Ints  # positives among the decided
    decided: Ints
    decided_units: Ints
    positives: int
    positive_units: int

    @property
    def recall(self) -> Floats:
        return self.found / self.positives if self.positives else np.full(len(self.found), np.nan)

    @property
    def precision(self) -> Floats:
        return self.found / self.decided

    def recall_bound(self) -> Floats:
        """One-sided 95 % Clopper-Pearson lower bounds of the recall [K]."""
        return _lower(self.found, np.full(len(self.found), self.positives), np.array(self.positive_units))

    def precision_bound(self) -> Floats:
        """The same of the precision, each as if no other threshold had been looked at."""
        return _lower(self.found, self.decided, self.decided_units)

    def for_recall(self, wanted: float) -> int | None:
        """The row of the largest threshold whose bound reaches `wanted`. How many must be found is known beforehand."""
        reaching = np.flatnonzero(self.recall_bound() >= wanted)
        return int(reaching[0]) if len(reaching) else None

    def for_precision(self, wanted: float) -> int | None:
        """The row of a threshold that finds as many as can be shown to hold `wanted`; wrong in 5 % of all cases.

        The best of many looks would be wrong in up to a third. So the bound is tested at numbers of units fixed
        beforehand, from the surest on, and the last before the first failure is taken: fixed-sequence testing
        (Angelopoulos, Bates, Candes, Jordan & Lei 2021, Learn then Test), which needs no smaller error for each test.
        """
        bounds, shown = self.precision_bound(), None
        for row in self._tested(wanted):
            if bounds[row] < wanted:
                break
            shown = row
        return shown

    def first_tested(self, wanted: float) -> int | None:
        return next(self._tested(wanted), None)

    def _tested(self, wanted: float) -> Iterator[int]:
        count, most = precision_units(wanted), int(self.decided_units.max(initial=0))
        while count <= most:
            yield int(np.searchsorted(self.decided_units, count))
            count = max(count + 1, round(count * _STEP))


def tradeoff(
    scores: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    free: npt.NDArray[np.bool_] | None = None,
    groups: Sequence[str] | None = None,
) -> Tradeoff:
    """Every operating point of a class. `free`: pictures no earlier watched class has claimed; the others are lost.

    `groups`: each picture's, where groups are the unit.
    """
    free = np.ones(len(scores), bool) if free is None else free
    falling = -scores[free].astype(np.float64)
    thresholds = np.unique(falling)
    decided = np.searchsorted(np.sort(falling), thresholds, side="right").astype(np.int64)
    found = np.searchsorted(np.sort(falling[positive[free]]), thresholds, side="right")
    decided_units, positive_units = decided, int(positive.sum())
    if groups is not None:
        numbers = group_numbers(groups)
        _, first = np.unique(numbers[free][np.argsort(falling, kind="stable")], return_index=True)
        decided_units = np.searchsorted(np.sort(first), decided).astype(np.int64)
        positive_units = len(np.unique(numbers[positive]))
    return Tradeoff(-thresholds, found.astype(np.int64), decided, decided_units, int(positive.sum()), positive_units)


def positives_needed(recall: float) -> int:
    """How many positives it takes to show a recall even if every one of them is found: 0.05 ** (1 / n) >= recall.

    >>> positives_needed(0.9)
    29
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(recall))


def precision_units(wanted: float) -> int:
    """The fewest units that show a precision although one of them is wrong: where its tests begin.

    >>> precision_units(0.9)
    46
    """
    least = positives_needed(wanted)
    counts = np.arange(least + 1, 2 * least + 3)
    return int(counts[np.argmax(_lower(counts - 1, counts, counts) >= wanted)])


def choose_rule(
    probabilities: Scores,
    truth: Ints,
    classes: tuple[str, ...],
    decision: DecisionSpec,
    groups: Sequence[str] | None = None,
) -> Rule:
    """Thresholds for the watched classes from validation `probabilities` float32 [N, C].

    `groups`: each picture's where the user gave groups, which then are what is counted, else None. Each class is looked
    at after those before it have taken theirs, as the rule will do. Raises BadInput if a watched class is unknown or
    what is wanted cannot be shown on these pictures.
    """
    free = np.ones(len(truth), bool)  # not yet claimed by an earlier watched class
    steps = []
    for watch in decision.watch:
        if watch.label not in classes:
            raise BadInput(
                f"expected a watched class among {', '.join(classes)}, found {watch.label!r}: correct decision"
            )
        index = classes.index(watch.label)
        scores = probabilities[:, index].astype(np.float64)
        curve, unit = tradeoff(scores, truth == index, free, groups), "pictures" if groups is None else "groups"
        metric, wanted = ("recall", watch.recall) if watch.recall else ("precision", watch.precision)
        assert wanted is not None
        row = curve.for_recall(wanted) if watch.recall else curve.for_precision(wanted)
        if row is None:
            raise BadInput((_no_recall if watch.recall else _no_precision)(curve, watch.label, wanted, unit))
        threshold = float(curve.thresholds[row])
        steps.append(
            Watch.model_validate({"label": watch.label, "threshold": threshold, "metric": metric, "wanted": wanted})
        )
        free &= scores < threshold
    return Rule(watch=tuple(steps))


def _no_recall(curve: Tradeoff, label: str, wanted: float, unit: str) -> str:
    free = int(curve.found.max(initial=0))
    pictures = "" if unit == "pictures" else f" with {curve.positives} pictures"
    return (
        f"expected at least {positives_needed(wanted)} validation {unit} of {label!r} to show a recall of {wanted}, "
        f"found {curve.positive_units}{pictures} ({free} not taken by an earlier watched class): add {unit}, or want "
        "less"
    )


def _no_precision(curve: Tradeoff, label: str, wanted: float, unit: str) -> str:
    row, needed = curve.first_tested(wanted), precision_units(wanted)
    if row is None:
        found = f"{curve.decided_units.max(initial=0)} {unit} in all"
    else:
        found = f"{curve.precision_bound()[row]:.3f} as a 95 % bound"
    return (
        f"expected the {needed} validation {unit} surest to be {label!r} to show a precision of {wanted}, found "
        f"{found}: add {unit} of every class, or want less"
    )


def _lower(hits: Ints, of: Ints, units: Ints) -> Floats:
    """`intervals.clopper_pearson_lower` for arrays, on `units` at the same share: hits need not be whole."""
    some = np.maximum(hits, 1) * units / np.maximum(of, 1)
    bounds = stats.beta.ppf(1 - CONFIDENCE, some, np.maximum(of - hits, 0) * units / np.maximum(of, 1) + 1)
    return np.where(hits > 0, bounds, 0.0).astype(np.float64)
