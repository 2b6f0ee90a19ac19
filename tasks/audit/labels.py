"""Likely label errors: what a head says of pictures that it was not fitted on.

Confident learning (Northcutt, Jiang & Chuang 2021) as cleanlab implements it, on out-of-fold probabilities of a
logistic head over the cached features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_FOLDS = 5
_SIZE = 128  # principal components: a fifth of the time, and no worse at finding flipped labels
_STRENGTH = 0.01  # inverse weight decay


@dataclass(frozen=True, slots=True)
class Doubts:
    """`quality` [N], 0 ... 1: how well each label fits its picture. `rows` of likely errors, the likeliest first.

    `likeliest` [N]: the label that fits best, as an index of the classes.
    """

    quality: Floats
    rows: Ints
    likeliest: Ints


def doubt_labels(features: npt.NDArray[np.float32], labels: Ints, units: Sequence[str], classes: int) -> Doubts | None:
    """`features` float32 [N, F], `labels` [N] 0 ... classes - 1. None where a class has too few units to tell."""
    numbers = np.unique(np.array(units, str), return_inverse=True)[1]
    fewest = min(len(np.unique(numbers[labels == label])) for label in range(classes))
    folds = min(_FOLDS, fewest)
    if folds < 2:
        return None
    probabilities = _out_of_fold(np.asarray(features, np.float64), labels, numbers, classes, folds)
    quality: Floats = get_label_quality_scores(labels, probabilities)
    rows = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return Doubts(quality, np.asarray(rows, np.int64), probabilities.argmax(axis=1).astype(np.int64))


def _out_of_fold(values: Floats, labels: Ints, units: Ints, classes: int, folds: int) -> Floats:
    """float64 [N, C]. Copies of one picture are in one fold: a copy would vouch for its own label."""
    found = np.zeros((len(values), classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fold may lack a class, or the solver end a step early: the ranking stands
        for fit, rest in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(values, labels, units):
            head = make_pipeline(
                StandardScaler(),
                PCA(min(_SIZE, len(fit) - 1, values.shape[1]), svd_solver="randomized", random_state=0),
                LogisticRegression(C=_STRENGTH, max_iter=300, class_weight="balanced"),
            ).fit(values[fit], labels[fit])
            found[rest[:, None], head.classes_[None, :]] = head.predict_proba(values[rest])
    found = np.clip(found, 1e-6, None)
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float64)
