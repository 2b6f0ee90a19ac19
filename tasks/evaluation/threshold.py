"""The served operating point, chosen on validation: a threshold that keeps a promise, not one that happened to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from serving.artifact import Rule, Scores, Watch
from serving.errors import BadInput
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.spec import DecisionSpec, WatchSpec

CONFIDENCE = 0.95  # one-sided


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """What each threshold on one class's probability finds. `thresholds` [K] fall; the counts are of scores >= each."""

    thresholds: Floats
    found: Ints  # positives among the decided
    decided: Ints
    positives: int

    @property
    def recall(self) -> Floats:
        return self.found / self.positives if self.positives else np.full(len(self.found), np.nan)

    @property
    def precision(self) -> Floats:
        return self.found / self.decided

    def recall_bound(self) -> Floats:
        """One-sided 95 % Clopper-Pearson lower bounds of the recall [K]."""
        return _lower(self.found, np.full(len(self.found), self.positives))

    def precision_bound(self) -> Floats:
        return _lower(self.found, self.decided)


def tradeoff(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], free: npt.NDArray[np.bool_] | None = None
) -> Tradeoff:
    """Every operating point of a class. `free`: pictures no earlier watched class has claimed; the others are lost."""
    free = np.ones(len(scores), bool) if free is None else free
    falling = -scores[free].astype(np.float64)
    thresholds = np.unique(falling)
    decided = np.searchsorted(np.sort(falling), thresholds, side="right")
    found = np.searchsorted(np.sort(falling[positive[free]]), thresholds, side="right")
    return Tradeoff(-thresholds, found.astype(np.int64), decided.astype(np.int64), int(positive.sum()))


def positives_needed(recall: float) -> int:
    """How many positives it takes to show a recall even if every one of them is found: 0.05 ** (1 / n) >= recall.

    >>> positives_needed(0.9)
    29
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(recall))


def choose_rule(probabilities: Scores, truth: Ints, classes: tuple[str, ...], decision: DecisionSpec) -> Rule:
    """Thresholds for the watched classes from validation `probabilities` float32 [N, C].

    Each class is looked at after those before it have taken theirs, as the rule will do. Raises BadInput if a
    watched class is unknown or what is wanted cannot be shown on these pictures.
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
        curve = tradeoff(scores, truth == index, free)
        metric, wanted = ("recall", watch.recall) if watch.recall else ("precision", watch.precision)
        assert wanted is not None
        threshold = _for_recall(curve, watch, wanted) if watch.recall else _for_precision(curve, watch, wanted)
        steps.append(
            Watch.model_validate({"label": watch.label, "threshold": threshold, "metric": metric, "wanted": wanted})
        )
        free &= scores < threshold
    return Rule(watch=tuple(steps))


def _for_recall(curve: Tradeoff, watch: WatchSpec, wanted: float) -> float:
    """The largest threshold whose one-sided bound on recall reaches the one wanted."""
    reaching = np.flatnonzero(curve.recall_bound() >= wanted)
    if len(reaching):
        return float(curve.thresholds[reaching[0]])
    free = int(curve.found.max(initial=0))
    raise BadInput(
        f"expected at least {positives_needed(wanted)} validation pictures of {watch.label!r} to show a recall "
        f"of {wanted}, found {curve.positives} ({free} not taken by an earlier watched class): add pictures, or want "
        "less"
    )


def _for_precision(curve: Tradeoff, watch: WatchSpec, wanted: float) -> float:
    """The smallest threshold (most pictures found) whose one-sided bound on precision reaches the one wanted."""
    bounds = curve.precision_bound()
    reaching = np.flatnonzero(bounds >= wanted)
    if len(reaching):
        return float(curve.thresholds[reaching[-1]])
    raise BadInput(
        f"expected validation pictures to show a precision of {wanted} for {watch.label!r}, found at most "
        f"{bounds.max(initial=0.0):.3f} as a 95 % bound: add pictures of every class, or want less"
    )


def _lower(successes: Ints, n: Ints) -> Floats:
    """`intervals.clopper_pearson_lower` for arrays."""
    some = np.maximum(successes, 1)
    bounds = stats.beta.ppf(1 - CONFIDENCE, some, np.maximum(n - successes, 0) + 1)
    return np.where(successes > 0, bounds, 0.0).astype(np.float64)
