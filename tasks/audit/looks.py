"""What single pictures look like (tiny, oddly shaped, dark, bright, blurry), and what gives their label away."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from tasks.audit.findings import Finding, Suspect, of_pictures
from tasks.audit.spec import Kind
from tasks.data.facts import Facts
from tasks.evaluation.intervals import jeffreys_macro

Floats = npt.NDArray[np.float64]
_DARK, _BRIGHT = 16.0, 239.0  # mean luminance, 0-255: nearly black, nearly white
_BLURRY = 0.05  # of the folder's median sharpness
_ODD = 2.0  # times as wide, or as high, as the folder's median shape
_USUAL = 0.1  # share of the pictures from which on it is how this folder is, and nobody wants a list
_CONFIDENCE = 0.999  # of ten properties looked at, none should be named by chance
_TELLING = 0.5  # share of the way from chance to perfect that a property alone must surely go


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A property that predicts the label: balanced accuracy out of fold, with its interval."""

    name: str
    accuracy: float
    low: float
    high: float


def odd_pictures(facts: Facts, image_size: int) -> Iterator[Finding]:
    """One finding for each way in which pictures are unlike the others."""
    shape = np.log(facts.widths / facts.heights)
    sharp = facts.sharpness / max(float(np.median(facts.sharpness)), 1e-9)
    least = np.minimum(facts.widths, facts.heights)
    away = np.abs(shape - np.median(shape)) / np.log(_ODD)
    checks: tuple[tuple[Kind, npt.NDArray[np.bool_], Floats, str], ...] = (
        ("tiny", least < image_size / 2, 1 - least / image_size, f"smaller than half of model.image_size {image_size}"),
        ("odd_shape", away >= 1, 1 - 1 / (1 + away), "of another shape than the rest, and stretched out of proportion"),
        ("dark", facts.brightness < _DARK, 1 - facts.brightness / 255, f"nearly black (mean below {_DARK:g} of 255)"),
        ("bright", facts.brightness > _BRIGHT, facts.brightness / 255, f"nearly white (mean above {_BRIGHT:g} of 255)"),
        ("blurry", sharp < _BLURRY, 1 - sharp, "far less sharp than the rest"),
    )
    for kind, found, score, words in checks:
        rows = np.flatnonzero(found)
        if not len(rows):
            continue
        if len(rows) > _USUAL * len(facts):
            text = f"{of_pictures(len(rows))} of {len(facts):,} are {words}: usual here; make sure that it is meant"
            yield Finding(kind, "INFO", text)
            continue
        order = rows[np.argsort(-score[rows], kind="stable")]
        text = f"expected pictures like the others, found {of_pictures(len(rows))} {words}: look at them, drop faults"
        yield Finding(kind, "WARN", text, tuple(Suspect((int(i),), float(np.clip(score[i], 0, 1))) for i in order))


def shortcuts(facts: Facts, classes: int) -> tuple[Shortcut, ...]:
    """Every property's own power to tell the label, the strongest first.

    Balanced accuracy of a tree of depth 2, out of fold (units kept together); the interval draws units of each class.
    """
    units = np.unique(np.array(facts.units, str), return_inverse=True)[1]
    fewest = min(len(np.unique(units[facts.labels == label])) for label in range(classes))
    if fewest < 5:
        return ()
    found = [
        _shortcut(name, values, facts.labels, units, classes)
        for name, values in _properties(facts).items()
        if len(np.unique(values)) > 1
    ]
    return tuple(sorted(found, key=lambda one: -one.low))


def shortcut_finding(found: tuple[Shortcut, ...], classes: int) -> Finding | None:
    """A warning of those that surely go half of the way from chance to perfect."""
    limit = 1 / classes + _TELLING * (1 - 1 / classes)
    telling = [one for one in found if one.low >= limit]
    if not telling:
        return None
    named = ", ".join(f"{one.name} ({one.accuracy:.0%} balanced, chance {1 / classes:.0%})" for one in telling)
    return Finding(
        "shortcut",
        "WARN",
        f"expected that only what a picture shows tells its label, found that {named} alone does: a model may learn "
        "that instead; take pictures of all classes in the same way, or know why it is so",
    )


def _properties(facts: Facts) -> dict[str, Floats]:
    names = {"mode": facts.modes, "format": facts.formats}
    codes = {name: np.unique(np.array(of, str), return_inverse=True)[1].astype(float) for name, of in names.items()}
    return {
        "width": facts.widths.astype(float),
        "height": facts.heights.astype(float),
        "shape": facts.widths / facts.heights,
        "file size": facts.sizes.astype(float),
        "brightness": facts.brightness,
        "contrast": facts.contrast,
        "sharpness": facts.sharpness,
        **codes,
    }


def _shortcut(
    name: str, values: Floats, labels: npt.NDArray[np.int64], units: npt.NDArray[np.int64], classes: int
) -> Shortcut:
    tree = DecisionTreeClassifier(max_depth=2, min_samples_leaf=5, class_weight="balanced", random_state=0)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large units may leave a fold without a class
        told = cross_val_predict(tree, values[:, None], labels, groups=units, cv=folds)
    right = [float(((told == labels) & (labels == label)).sum()) for label in range(classes)]
    own = [int((labels == label).sum()) for label in range(classes)]
    # pictures of one unit count once: each class's counts are scaled to its units
    scale = [len(np.unique(units[labels == label])) / n for label, n in enumerate(own)]
    shares = [r * s for r, s in zip(right, scale, strict=True)]
    low, high = jeffreys_macro(shares, [n * s for n, s in zip(own, scale, strict=True)], _CONFIDENCE)
    return Shortcut(name, float(np.mean([r / n for r, n in zip(right, own, strict=True)])), low, high)
