"""Metrics against scikit-learn, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from tasks.evaluation import metrics


def test_the_textbook_example() -> None:
    """TP 85, FP 15, TN 90, FN 10: precision 0.85, recall 0.8947, F1 0.8718."""
    confusion = np.array([[90, 15], [10, 85]])
    assert metrics.precision_by_class(confusion)[1] == 0.85
    assert metrics.recall_by_class(confusion)[1] == pytest.approx(0.8947, abs=5e-5)
    assert metrics.f1_by_class(confusion)[1] == pytest.approx(0.8718, abs=5e-5)
    assert metrics.accuracy(confusion) == pytest.approx(0.875)


@pytest.mark.parametrize("seed", range(200))
def test_agrees_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes, n = int(random.integers(2, 7)), int(random.integers(1, 120))
    # some classes may be absent from either side: there our NaN stands where scikit-learn is told to give NaN
    truth, decided = random.integers(0, random.integers(1, classes + 1), n), random.integers(0, classes, n)
    confusion = metrics.confusion_matrix(truth, decided, classes)
    labels = list(range(classes))
    assert np.array_equal(confusion, oracle.confusion_matrix(truth, decided, labels=labels))
    assert metrics.accuracy(confusion) == pytest.approx(oracle.accuracy_score(truth, decided), abs=1e-9)
    expected = oracle.precision_recall_fscore_support(truth, decided, labels=labels, zero_division=np.nan)
    np.testing.assert_allclose(metrics.precision_by_class(confusion), expected[0], atol=1e-9)
    np.testing.assert_allclose(metrics.recall_by_class(confusion), expected[1], atol=1e-9)
    np.testing.assert_allclose(metrics.f1_by_class(confusion), expected[2], atol=1e-9)


def test_undefined_is_nan_and_becomes_null() -> None:
    truth, decided = np.array([0, 0]), np.array([0, 0])
    assert math.isnan(metrics.recall_by_class(metrics.confusion_matrix(truth, decided, 2))[1])
    summary = metrics.summary(truth, decided, ("good", "bad"))
    assert summary["recall"] == {"good": 1.0, "bad": None}
    assert summary["macro_recall"] is None
    assert math.isnan(metrics.accuracy(metrics.confusion_matrix(truth[:0], decided[:0], 2)))


def test_log_loss_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1, 1, 1], 50)
    truth = random.integers(0, 3, 50)
    expected = oracle.log_loss(truth, probabilities, labels=[0, 1, 2])
    assert metrics.log_loss(probabilities, truth) == pytest.approx(expected, abs=1e-9)
