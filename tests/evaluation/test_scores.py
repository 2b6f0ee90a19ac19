"""Metrics of probabilities against scikit-learn and plain loops: random cases with ties, empty and one-class ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from tasks.evaluation import scores


@pytest.mark.parametrize("seed", range(200))
def test_ranking_agrees_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 80))
    values = np.round(random.random(n), int(random.integers(1, 6)))  # few digits: many ties
    positive = random.random(n) < random.random()
    if positive.any() and not positive.all():
        assert scores.roc_auc(values, positive) == pytest.approx(oracle.roc_auc_score(positive, values), abs=1e-9)
    else:
        assert math.isnan(scores.roc_auc(values, positive))
    if positive.any():
        expected = oracle.average_precision_score(positive, values)
        assert scores.pr_auc(values, positive) == pytest.approx(expected, abs=1e-9)
    else:
        assert math.isnan(scores.pr_auc(values, positive))


@pytest.mark.parametrize("seed", range(50))
def test_honesty_agrees_with_plain_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, classes = int(random.integers(1, 60)), int(random.integers(2, 6))
    shares = random.dirichlet(np.full(classes, 0.4), n)
    truth = random.integers(0, classes, n)
    squares = [sum((p - (c == t)) ** 2 for c, p in enumerate(row)) for row, t in zip(shares, truth, strict=True)]
    assert scores.brier(shares, truth) == pytest.approx(sum(squares) / n, abs=1e-9)
    total = 0.0
    for k in range(scores.BINS):
        inside = [i for i in range(n) if k / scores.BINS < shares[i].max() <= (k + 1) / scores.BINS]
        if inside:
            confidence = sum(shares[i].max() for i in inside) / len(inside)
            accuracy = sum(int(shares[i].argmax() == truth[i]) for i in inside) / len(inside)
            total += abs(confidence - accuracy) * len(inside) / n
    assert scores.calibration_error(shares, truth) == pytest.approx(total, abs=1e-9)


def test_nothing_to_score_is_nan() -> None:
    empty, none = np.zeros((0, 3)), np.zeros(0, np.int64)
    assert math.isnan(scores.brier(empty, none))
    assert math.isnan(scores.calibration_error(empty, none))
    assert math.isnan(scores.roc_auc(empty[:, 0], none == 1))


def test_certain_and_right_is_perfect() -> None:
    truth = np.array([0, 1, 2])
    assert scores.brier(np.eye(3), truth) == 0
    assert scores.calibration_error(np.eye(3), truth) == 0
