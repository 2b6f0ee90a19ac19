"""The served operating point, chosen on validation: a threshold that keeps a promise, not one that happened to fit."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from serving.artifact import Rule, Scores, Watch
from serving.errors import BadInput
from tasks.evaluation.intervals import clopper_pearson_lower
from tasks.evaluation.metrics import Ints
from tasks.evaluation.spec import DecisionSpec, WatchSpec

CONFIDENCE = 0.95  # one-sided


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
        threshold = (
            _for_recall(scores, truth == index, free, watch)
            if watch.recall
            else _for_precision(scores, truth == index, free, watch)
        )
        wanted = watch.recall or watch.precision
        assert wanted is not None
        steps.append(
            Watch(
                label=watch.label, threshold=threshold, metric="recall" if watch.recall else "precision", wanted=wanted
            )
        )
        free &= scores < threshold
    return Rule(watch=tuple(steps))


def _for_recall(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], free: npt.NDArray[np.bool_], watch: WatchSpec
) -> float:
    """The largest threshold whose one-sided bound on recall reaches the one wanted."""
    assert watch.recall is not None
    n = int(positive.sum())
    found = np.sort(scores[positive & free])[::-1]
    for k in range(1, len(found) + 1):
        if clopper_pearson_lower(k, n, CONFIDENCE) >= watch.recall:
            return float(found[k - 1])
    raise BadInput(
        f"expected at least {positives_needed(watch.recall)} validation pictures of {watch.label!r} to show a recall "
        f"of {watch.recall}, found {n} ({len(found)} not taken by an earlier watched class): add pictures, or want less"
    )


def _for_precision(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], free: npt.NDArray[np.bool_], watch: WatchSpec
) -> float:
    """The smallest threshold (most pictures found) whose one-sided bound on precision reaches the one wanted."""
    assert watch.precision is not None
    bounds = [
        (clopper_pearson_lower(int((chosen & positive).sum()), int(chosen.sum()), CONFIDENCE), float(threshold))
        for threshold in np.unique(scores[free])
        if (chosen := free & (scores >= threshold)).any()
    ]
    reaching = [threshold for bound, threshold in bounds if bound >= watch.precision]
    if reaching:
        return min(reaching)
    best = max((bound for bound, _ in bounds), default=0.0)
    raise BadInput(
        f"expected validation pictures to show a precision of {watch.precision} for {watch.label!r}, found at most "
        f"{best:.3f} as a 95 % bound: add pictures of every class, or want less"
    )
