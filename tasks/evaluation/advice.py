"""The cheapest next step for a line that did not pass. Never computed on the test split: that would use it up."""

from __future__ import annotations

import math

from tasks.evaluation.gate import Check, Measurement, holds, near_end
from tasks.evaluation.intervals import wilson
from tasks.evaluation.metrics import OVERALL, confusion_matrix
from tasks.evaluation.sample import Sample
from tasks.evaluation.threshold import tradeoff

# by a part of the metric's name: what a shortfall of it means, whatever its size
_REMEDIES = {
    "parity": "the exported file and the trained network disagree: training and serving do not prepare pictures alike, "
    "or export.precision costs too much",
    "_vs_champion": "worse than the champion by {gap:.4f} more than the margin allows: the champion stays",
    "latency_ms": "{gap:.3g} ms too slow: a smaller model.image_size or backbone, or export.precision=int8",
    "model_size_mb": "{gap:.3g} MB too large: a smaller backbone, or export.precision=int8",
    "_gap": "{gap:.4f} too wide: more pictures, stronger finetune.augmentation, or fewer epochs",
    "_over_": "short by {gap:.4f}: this backbone finds no more in these pictures and labels; see the mistakes",
}


def advise(
    check: Check, measured: Measurement | None, confidence: float, validation: Sample, classes: tuple[str, ...]
) -> str | None:
    """What to do, or None where there is nothing to do or doubt. `validation` is as served."""
    if measured is None or check.value is None:
        return _unmeasured(check, classes)
    groups = validation.units if measured.unit == "groups" else None
    if check.verdict == "REJECTED":
        return _mend(check, validation, classes, groups)
    near = near_end(check, measured.interval)
    if check.verdict == "INCONCLUSIVE":
        more = _more(check, measured, confidence, classes)
        other = _other_threshold(check, validation, classes, groups)
        return f"{more}; or {other}" if other else more
    if check.evidence == "point" and not math.isnan(near) and not holds(check, near):
        return f"the value passes, its interval does not: {_more(check, measured, confidence, classes)}"
    return None


def units_to_decide(value: float, threshold: float, n: int, confidence: float, upper: bool = False) -> int | None:
    """How many more units a proportion needs, at the same value, before Wilson's interval clears the threshold.

    None where no number would, because the value is not beyond the threshold.

    >>> units_to_decide(0.85, 0.8, 100, 0.95)
    146
    """
    if (value >= threshold) if upper else (value <= threshold):
        return None

    def clear(size: int) -> bool:
        low, high = wilson(value * size, size, confidence)
        return high <= threshold if upper else low >= threshold

    most = max(1, n)
    while not clear(most):
        most *= 2
    least = max(0, n - 1)
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (least, middle) if clear(middle) else (middle, most)
    return max(0, most - n)


def _unmeasured(check: Check, classes: tuple[str, ...]) -> str:
    """What was missing: pictures of a class, decisions for it, or the class itself."""
    named = f"{check.scope!r}"
    if check.metric == "recall_vs_champion" and check.scope not in (*classes, "overall"):
        return (
            f"class {named} removed since the champion, which answers it: give its pictures back, or if it is meant to "
            'go, promote by hand: thaw promote NAME:VERSION --override "reason"'
        )
    if check.metric == "precision_vs_champion":
        return f"not measured: this model or the champion decided no {check.split} pictures to be {named}"
    if check.metric == "precision":
        return f"not measured: no {check.split} pictures decided to be {named}"
    return f"not measured: no {check.split} pictures of {_whom(check)} to tell"


def _more(check: Check, measured: Measurement, confidence: float, classes: tuple[str, ...]) -> str:
    """How many more pictures would decide, at the same value."""
    upper = check.operator == "<="
    if measured.proportion:
        more = units_to_decide(measured.value, check.threshold, measured.n, confidence, upper)
    else:  # other intervals shrink with the square root of n
        near = near_end(check, measured.interval)
        if math.isnan(near):
            return f"no interval: add {check.split} pictures of every class"
        distance, width = abs(measured.value - check.threshold), abs(measured.value - near)
        more = None if not distance else max(1, math.ceil(measured.n * ((width / distance) ** 2 - 1)))
    if more is None:
        return f"the value stands on the threshold: no number of {check.split} {measured.unit} would decide"
    return f"about {more} more {check.split} {measured.unit} {_counted(check, classes)} would decide, at the same value"


def _mend(check: Check, validation: Sample, classes: tuple[str, ...], groups: tuple[str, ...] | None) -> str:
    assert check.value is not None
    gap = abs(check.value - check.threshold)
    fixed = next((text for part, text in _REMEDIES.items() if part in check.metric), None)
    if fixed is not None:
        return fixed.format(gap=gap)
    if check.operator == "<=":
        return f"{gap:.4f} too high"
    other = _other_threshold(check, validation, classes, groups) or _at_argmax(check, validation, classes)
    if other:
        return f"short by {gap:.4f}: {other}"
    if check.metric == "recall":
        return f"short by {gap:.4f}: add pictures of {_whom(check)} to train on"
    return f"short by {gap:.4f}: train longer, add pictures, or ask for less (gate)"


def _other_threshold(
    check: Check, validation: Sample, classes: tuple[str, ...], groups: tuple[str, ...] | None
) -> str | None:
    """The operating point that shows what was wanted on validation, and what it costs, if there is one."""
    if check.metric not in ("recall", "precision") or check.scope not in classes or check.operator == "<=":
        return None
    if not 0 < check.threshold < 1:  # nothing to show, or what no sample can
        return None
    index = classes.index(check.scope)
    curve = tradeoff(validation.probabilities[:, index], validation.truth == index, groups=groups)
    best = (curve.for_recall if check.metric == "recall" else curve.for_precision)(check.threshold)
    if best is None:
        return None
    other = "precision" if check.metric == "recall" else "recall"
    price = float((curve.precision if other == "precision" else curve.recall)[best])
    return (
        f"on validation, threshold {curve.thresholds[best]:.2g} for {check.scope!r} reaches this {check.metric} at "
        f"{other} {price:.2f} (decision.watch)"
    )


def _at_argmax(check: Check, validation: Sample, classes: tuple[str, ...]) -> str | None:
    """Whether the watched class's threshold is what costs an overall figure."""
    if check.metric not in OVERALL or check.scope != "overall":
        return None
    served, likeliest = (
        float(OVERALL[check.metric](confusion_matrix(s.truth, s.decided, len(classes))))
        for s in (validation, validation.at_argmax())
    )
    if served >= check.threshold or likeliest < check.threshold:
        return None
    return (
        f"on validation the watched class's threshold costs it ({likeliest:.2f} at argmax): want less in decision.watch"
    )


def _counted(check: Check, classes: tuple[str, ...]) -> str:
    """What n counts: a recall's pictures are of the class, a precision's decided to be it, any other metric's all."""
    if check.metric in ("precision", "precision_vs_champion"):
        return f"decided to be {check.scope!r}"
    if check.metric in ("recall", "recall_vs_champion"):
        return f"of {_whom(check)}"
    if check.scope in classes:
        return "of any class"
    label = next((c for c in sorted(classes, key=len, reverse=True) if check.scope.startswith(f"{c} in ")), None)
    return f"of {_whom(check)}" if label is None else f"of {check.scope.removeprefix(f'{label} in ')!r}"


def _whom(check: Check) -> str:
    return "any class" if check.scope == "overall" else f"{check.scope!r}"
