"""Metrics of probabilities [N, C] against true classes [N]: ranking (ROC-AUC, PR-AUC) and honesty (log loss, Brier,
calibration error). Undefined is NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from tasks.evaluation.metrics import Floats, Ints

Probabilities = npt.NDArray[np.floating]
BINS = 15


def roc_auc(scores: Probabilities, positive: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney). NaN without both kinds.

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    ranks = rankdata(scores.astype(np.float64))
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def pr_auc(scores: Probabilities, positive: npt.NDArray[np.bool_]) -> float:
    """Average precision: precision at each threshold, weighted by the recall it adds. NaN without positives."""
    if not positive.any():
        return float("nan")
    falling = -scores.astype(np.float64)
    thresholds = np.unique(falling)
    decided = np.searchsorted(np.sort(falling), thresholds, side="right")
    found = np.searchsorted(np.sort(falling[positive]), thresholds, side="right")
    recall = found / positive.sum()
    return float((np.diff(recall, prepend=0.0) * found / decided).sum())


def log_loss(probabilities: Probabilities, truth: Ints) -> float:
    """Mean negative log of the true class's probability, natural log; probabilities are kept above 1e-15."""
    return float(log_losses(probabilities, truth).mean()) if len(truth) else float("nan")


def log_losses(probabilities: Probabilities, truth: Ints) -> Floats:
    """Each picture's part of the log loss, float64 [N]."""
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return -np.log(np.clip(chosen, 1e-15, None))


def brier(probabilities: Probabilities, truth: Ints) -> float:
    """Mean squared distance of the probabilities [N, C] from the truth, summed over classes: 0 (best) to 2."""
    return float(briers(probabilities, truth).mean()) if len(truth) else float("nan")


def briers(probabilities: Probabilities, truth: Ints) -> Floats:
    """Each picture's part of the Brier score, float64 [N]."""
    exact = probabilities.astype(np.float64)
    squares: Floats = (exact**2).sum(axis=1) - 2 * exact[np.arange(len(truth)), truth] + 1
    return squares


def calibration_error(probabilities: Probabilities, truth: Ints) -> float:
    """Expected calibration error of the likeliest class, 15 equal bins (Naeini et al. 2015): 0 (best) to 1."""
    return float(np.abs(bin_gaps(probabilities, truth)).sum()) if len(truth) else float("nan")


def bin_gaps(probabilities: Probabilities, truth: Ints) -> Floats:
    """What each bin adds to the calibration error, above 0 where it is too sure; float64 [BINS]."""
    counts, sure, right = _binned(probabilities, truth)
    gaps: Floats = (sure - right) / counts.sum()
    return gaps


def reliability(probabilities: Probabilities, truth: Ints) -> Floats:
    """Per non-empty bin of the highest probability: its mean, the accuracy, the pictures; float64 [bins, 3]."""
    counts, sure, right = _binned(probabilities, truth)
    some = counts > 0
    return np.stack([sure[some] / counts[some], right[some] / counts[some], counts[some]], axis=1)


def _binned(probabilities: Probabilities, truth: Ints) -> Floats:
    """Per bin of the highest probability: pictures, the sum of those probabilities, how many were right; [3, BINS]."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    # bins are open below and closed above, so that a probability of exactly 1 stands in the last
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    weights = np.ones_like(confidence), confidence, right.astype(np.float64)
    sums: Floats = np.stack([np.bincount(index, weight, BINS) for weight in weights])
    return sums


def without_temperature(probabilities: Probabilities, temperature: float) -> Floats:
    """softmax(logits) from softmax(logits / T): p ** T, normalised; float64 [N, C]."""
    logits = temperature * np.log(np.clip(probabilities.astype(np.float64), 1e-30, None))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
