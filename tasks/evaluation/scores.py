"""Metrics of probabilities [N, C] against true classes [N]: ranking (ROC-AUC, PR-AUC) and honesty (log loss, Brier,
calibration error). Undefined is NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.evaluation.metrics import Floats, Ints, ratio

Probabilities = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
BINS = 15


def roc_auc(scores: Probabilities, positive: Bools) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney). NaN without both kinds.

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    return float(roc_aucs(scores, positive, once(len(scores)))[0])


def roc_aucs(scores: Probabilities, positive: Bools, weights: Floats) -> Floats:
    """The same of each row of `weights` [D, N], how often each picture is there; float64 [D]."""
    found, wrong = _by_score(scores, positive, weights)
    below = wrong.cumsum(axis=1) - wrong
    pairs = found.sum(axis=1) * wrong.sum(axis=1)
    return ratio((found * (below + wrong / 2)).sum(axis=1), pairs)


def pr_auc(scores: Probabilities, positive: Bools) -> float:
    """Average precision: precision at each threshold, weighted by the recall it adds. NaN without positives."""
    return float(pr_aucs(scores, positive, once(len(scores)))[0])


def pr_aucs(scores: Probabilities, positive: Bools, weights: Floats) -> Floats:
    """The same of each row of `weights` [D, N]; float64 [D]."""
    added, wrong = (part[:, ::-1] for part in _by_score(scores, positive, weights))
    found = added.cumsum(axis=1)
    decided = found + wrong.cumsum(axis=1)
    return ratio((added * found / np.maximum(decided, 1)).sum(axis=1), added.sum(axis=1))


def once(n: int) -> Floats:
    """The weights [1, N] of the pictures as they are."""
    return np.ones((1, n))


def _by_score(scores: Probabilities, positive: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """How many positives and how many others stand at each score that occurs, from the lowest: two of [D, scores]."""
    order = np.argsort(scores, kind="stable")
    rising = scores[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(rising, prepend=-np.inf))
    if not len(starts):
        return weights, weights
    drawn = weights[:, order]
    found = np.add.reduceat(drawn * positive[order], starts, axis=1)
    return found, np.add.reduceat(drawn, starts, axis=1) - found


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
    return float(np.abs(bin_gaps(probabilities, truth, once(len(truth)))).sum()) if len(truth) else float("nan")


def bin_gaps(probabilities: Probabilities, truth: Ints, weights: Floats) -> Floats:
    """What each bin adds to the calibration error, above 0 where it is too sure; float64 [D, BINS] (weights [D, N])."""
    counts, sure, right = _binned(probabilities, truth, weights)
    gaps: Floats = (sure - right) / counts.sum(axis=1, keepdims=True)
    return gaps


def reliability(probabilities: Probabilities, truth: Ints) -> Floats:
    """Per non-empty bin of the highest probability: its mean, the accuracy, the pictures; float64 [bins, 3]."""
    counts, sure, right = _binned(probabilities, truth, once(len(truth)))[:, 0]
    some = counts > 0
    return np.stack([sure[some] / counts[some], right[some] / counts[some], counts[some]], axis=1)


def _binned(probabilities: Probabilities, truth: Ints, weights: Floats) -> Floats:
    """Per bin of the highest probability: pictures, those probabilities' sum, how many were right; [3, D, BINS]."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    # bins are open below and closed above, so that a probability of exactly 1 stands in the last
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    inside = np.eye(BINS)[index]
    sums: Floats = np.stack([weights @ inside, weights @ (inside.T * confidence).T, weights @ (inside.T * right).T])
    return sums


def without_temperature(probabilities: Probabilities, temperature: float) -> Floats:
    """softmax(logits) from softmax(logits / T): p ** T, normalised; float64 [N, C]."""
    logits = temperature * np.log(np.clip(probabilities.astype(np.float64), 1e-30, None))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
