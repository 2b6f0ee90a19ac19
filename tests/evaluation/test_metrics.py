"""Every metric of counts against scikit-learn on 1,000 random cases, and what is undefined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import sklearn
from sklearn import metrics as oracle

from tasks.evaluation import metrics
from tasks.evaluation.metrics import BY_CLASS, OVERALL, Ints

BLOCKS = range(10)  # of 100 cases, so that the output stays short
NAN = math.nan


def agree(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> None:
    """To 1e-9, NaN where the other is NaN."""
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=0, atol=1e-9)


def cases(block: int) -> Iterator[tuple[Ints, Ints, int]]:
    """True and decided classes [N] and the number of classes; N may be 0, classes may be absent on either side."""
    for seed in range(100 * block, 100 * block + 100):
        random = np.random.default_rng(seed)
        classes, n = int(random.integers(2, 7)), int(random.integers(0, 120))
        truth = random.integers(0, random.integers(1, classes + 1), n)
        right = random.random(n) < random.random()
        yield truth, np.where(right, truth, random.integers(0, random.integers(1, classes + 1), n)), classes


@pytest.fixture(autouse=True)
def _quick_and_quiet() -> Iterator[None]:
    """scikit-learn warns where a figure is undefined, which is where we assert our NaN."""
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("block", BLOCKS)
def test_agrees_with_scikit_learn_or_is_nan(block: int) -> None:
    """scikit-learn leaves undefined classes out of a mean; here the mean is undefined then."""
    defined = 0
    for truth, decided, classes in cases(block):
        confusion, labels = metrics.confusion_matrix(truth, decided, classes), list(range(classes))
        assert confusion.shape == (classes, classes)
        assert confusion.dtype == np.int64
        if not len(truth):
            assert all(np.isnan(metric(confusion)).all() for metric in (*BY_CLASS.values(), *OVERALL.values()))
            continue
        assert np.array_equal(confusion, oracle.confusion_matrix(truth, decided, labels=labels))
        precision, recall, f1, _ = oracle.precision_recall_fscore_support(
            truth, decided, labels=labels, zero_division=np.nan
        )
        # NaN exactly where nothing was decided, or nothing was to be found
        assert np.array_equal(np.isnan(precision), ~np.isin(labels, decided))
        assert np.array_equal(np.isnan(recall), ~np.isin(labels, truth))
        by_class = {"precision": precision, "recall": recall, "f1": f1}
        for name, expected in by_class.items():
            agree(BY_CLASS[name](confusion), expected)
        agree(OVERALL["accuracy"](confusion), oracle.accuracy_score(truth, decided))
        balanced = oracle.balanced_accuracy_score(truth, decided) if len(np.unique(truth)) == classes else NAN
        agree(OVERALL["balanced_accuracy"](confusion), balanced)
        for mean, counted in (("macro", np.ones(classes, bool)), ("weighted", np.isin(labels, truth))):
            complete = {name: not np.isnan(values[counted]).any() for name, values in by_class.items()}
            means = dict.fromkeys(by_class, NAN)
            if any(complete.values()):
                found = oracle.precision_recall_fscore_support(
                    truth, decided, labels=labels, average=mean, zero_division=np.nan
                )
                means = dict(zip(by_class, found, strict=False))
            for name, whole in complete.items():
                agree(OVERALL[f"{mean}_{name}"](confusion), means[name] if whole else NAN)
            defined += sum(complete.values())
    assert defined > 200  # of 600: the comparison is not one of NaN with NaN


@pytest.mark.parametrize("name", sorted(OVERALL))
def test_a_stack_of_matrices_gives_each_ones_figure(name: str) -> None:
    stack = np.random.default_rng(0).integers(0, 5, (20, 3, 3))
    stack[0], stack[1, 0] = 0, 0  # nothing at all; a class without pictures
    agree(OVERALL[name](stack), [float(OVERALL[name](one)) for one in stack])
    assert np.isnan(OVERALL[name](stack)[0])


def test_the_textbook_example() -> None:
    """TP 85, FP 15, TN 90, FN 10."""
    confusion = np.array([[90, 15], [10, 85]])
    assert BY_CLASS["precision"](confusion)[1] == 0.85
    assert BY_CLASS["recall"](confusion)[1] == pytest.approx(0.8947, abs=5e-5)
    assert BY_CLASS["f1"](confusion)[1] == pytest.approx(0.8718, abs=5e-5)
    assert OVERALL["accuracy"](confusion) == pytest.approx(0.875)


def test_a_class_that_was_never_decided_has_no_precision_and_so_has_no_mean() -> None:
    confusion = np.array([[10, 0], [5, 0]])
    agree(BY_CLASS["precision"](confusion), [10 / 15, NAN])
    agree(BY_CLASS["recall"](confusion), [1, 0])
    agree(BY_CLASS["f1"](confusion), [20 / 25, 0])
    assert math.isnan(OVERALL["macro_precision"](confusion))
    assert math.isnan(OVERALL["weighted_precision"](confusion))
    agree(OVERALL["macro_recall"](confusion), 0.5)


def test_a_class_without_pictures_weighs_nothing_but_leaves_no_plain_mean() -> None:
    confusion = np.array([[8, 2], [0, 0]])
    agree(OVERALL["weighted_recall"](confusion), 0.8)
    assert math.isnan(OVERALL["macro_recall"](confusion))
    assert math.isnan(OVERALL["balanced_accuracy"](confusion))


def test_decided_to_be_an_unknown_class_counts_nowhere() -> None:
    truth, decided = np.array([0, 0, 1, 1]), np.array([0, -1, -1, 1])
    assert metrics.confusion_matrix(truth, decided, 2).tolist() == [[1, 0], [0, 1]]


def test_nan_is_null_in_json() -> None:
    assert metrics.as_json(NAN) is None
    half = metrics.as_json(np.float64(0.5))
    assert half == 0.5
    assert type(half) is float


@pytest.mark.parametrize("block", BLOCKS)
def test_weighted_pictures_count_as_often_as_their_weight(block: int) -> None:
    """Also those decided to be a class unknown here, which count in no matrix."""
    random = np.random.default_rng(block)
    for truth, told, classes in cases(block):
        decided = np.where(random.random(len(told)) < 0.2, -1, told)
        weights = random.integers(0, 4, (5, len(truth)))
        stack = metrics.confusion_matrices(truth, decided, classes, weights.astype(np.float64))
        again = [metrics.confusion_matrix(truth.repeat(row), decided.repeat(row), classes) for row in weights]
        assert stack.dtype == np.int64
        np.testing.assert_array_equal(stack, again)
