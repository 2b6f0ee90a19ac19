"""Metrics of probabilities against scikit-learn, torchmetrics and plain loops: 1,000 random cases each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import sklearn
from sklearn import metrics as oracle

from tasks.evaluation import scores
from tasks.evaluation.metrics import Floats, Ints

BLOCKS = range(10)  # of 100 cases, so that the output stays short


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def ranked(block: int) -> Iterator[tuple[Floats, np.ndarray]]:
    """Scores [N] of few digits, so that many tie, and which are positive: none, some or all of N, which may be 0."""
    for seed in range(100 * block, 100 * block + 100):
        random = np.random.default_rng(seed)
        n = int(random.integers(0, 80))
        share = random.choice([0.0, 1.0, random.random(), random.random()])
        yield np.round(random.random(n), int(random.integers(1, 6))), random.random(n) < share


def predicted(block: int) -> Iterator[tuple[Floats, Ints, int]]:
    """Logits [N, C] and true classes [N], N from 0; often right, sometimes only one class there."""
    for seed in range(100 * block, 100 * block + 100):
        random = np.random.default_rng(seed)
        classes, n = int(random.integers(2, 6)), int(random.integers(0, 60))
        truth = random.integers(0, random.integers(1, classes + 1), n)
        logits = random.normal(size=(n, classes)) * random.uniform(0.1, 3)
        logits[np.arange(n), truth] += random.uniform(-1, 3)
        yield logits, truth, classes


@pytest.fixture(autouse=True)
def _quick_and_quiet() -> Iterator[None]:
    """scikit-learn warns where a figure is undefined, which is where we assert our NaN."""
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("block", BLOCKS)
def test_ranking_agrees_with_scikit_learn(block: int) -> None:
    for values, positive in ranked(block):
        if positive.any() and not positive.all():
            assert scores.roc_auc(values, positive) == pytest.approx(oracle.roc_auc_score(positive, values), abs=1e-9)
        else:
            assert math.isnan(scores.roc_auc(values, positive))
        if positive.any():
            expected = oracle.average_precision_score(positive, values)
            assert scores.pr_auc(values, positive) == pytest.approx(expected, abs=1e-9)
        else:
            assert math.isnan(scores.pr_auc(values, positive))


@pytest.mark.parametrize("block", BLOCKS)
def test_weighted_rankings_are_those_of_pictures_that_are_there_as_often(block: int) -> None:
    for i, (values, positive) in enumerate(ranked(block)):
        weights = np.random.default_rng(i).integers(0, 3, (4, len(values)))
        for each, stack in ((scores.roc_auc, scores.roc_aucs), (scores.pr_auc, scores.pr_aucs)):
            found = stack(values, positive, weights.astype(np.float64))
            again = [each(values.repeat(row), positive.repeat(row)) for row in weights]
            np.testing.assert_allclose(found, again, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_weighted_bins_are_those_of_pictures_that_are_there_as_often(block: int) -> None:
    for i, (logits, truth, _) in enumerate(predicted(block)):
        weights = np.random.default_rng(i).integers(0, 3, (4, len(truth)))
        weights[:, :1] += 1  # some picture is there
        if len(truth):
            found = np.abs(scores.bin_gaps(softmax(logits), truth, weights.astype(np.float64))).sum(axis=1)
            again = [scores.calibration_error(softmax(logits).repeat(row, 0), truth.repeat(row)) for row in weights]
            np.testing.assert_allclose(found, again, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_log_loss_and_brier_agree_with_scikit_learn(block: int) -> None:
    for logits, truth, classes in predicted(block):
        shares, labels = softmax(logits), list(range(classes))
        if not len(truth):
            assert math.isnan(scores.log_loss(shares, truth))
            assert math.isnan(scores.brier(shares, truth))
            continue
        expected = oracle.log_loss(truth, shares, labels=labels)
        assert scores.log_loss(shares, truth) == pytest.approx(expected, abs=1e-9)
        expected = oracle.brier_score_loss(truth, shares, labels=labels, scale_by_half=False)
        assert scores.brier(shares, truth) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
def test_calibration_error_before_and_after_temperature_agrees_with_torchmetrics(block: int) -> None:
    import torch
    from torchmetrics.functional.classification.calibration_error import _ce_compute  # the public one rounds to float32

    def expected(shares: Floats, truth: Ints) -> float:
        right = (shares.argmax(axis=1) == truth).astype(np.float64)
        return float(_ce_compute(torch.from_numpy(shares.max(axis=1)), torch.from_numpy(right), scores.BINS))

    for logits, truth, _ in predicted(block):
        temperature = float(np.random.default_rng(len(logits)).uniform(0.5, 5))
        after, before = softmax(logits / temperature), softmax(logits)
        untempered = scores.without_temperature(after, temperature)
        np.testing.assert_allclose(untempered, before, rtol=0, atol=1e-9)
        if not len(truth):
            assert math.isnan(scores.calibration_error(after, truth))
            continue
        assert scores.calibration_error(after, truth) == pytest.approx(expected(after, truth), abs=1e-9)
        assert scores.calibration_error(untempered, truth) == pytest.approx(expected(before, truth), abs=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
def test_reliability_agrees_with_plain_loops(block: int) -> None:
    """Of probabilities in fifteenths as well, which stand on the edges of the bins."""
    for i, (logits, truth, classes) in enumerate(predicted(block)):
        random = np.random.default_rng(i)
        edges = random.multinomial(scores.BINS, np.full(classes, 1 / classes), len(truth)) / scores.BINS
        for shares in (softmax(logits), edges):
            bins, total = scores.reliability(shares, truth), 0.0
            rows = []
            for k in range(scores.BINS):
                inside = [j for j, row in enumerate(shares) if k / scores.BINS < row.max() <= (k + 1) / scores.BINS]
                if inside:
                    confidence = sum(shares[j].max() for j in inside) / len(inside)
                    right = sum(int(shares[j].argmax() == truth[j]) for j in inside) / len(inside)
                    rows.append((confidence, right, len(inside)))
                    total += abs(confidence - right) * len(inside) / len(truth)
            np.testing.assert_allclose(bins, np.array(rows).reshape(-1, 3), rtol=0, atol=1e-9)
            if len(truth):
                assert scores.calibration_error(shares, truth) == pytest.approx(total, abs=1e-9)


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_finite() -> None:
    truth, wrong = np.array([0, 1, 2]), np.array([1, 2, 0])
    figures = (scores.log_loss, scores.brier, scores.calibration_error)
    assert [figure(np.eye(3), truth) for figure in figures] == [0, 0, 0]
    assert [figure(np.eye(3), wrong) for figure in figures] == pytest.approx([-math.log(1e-15), 2, 1])


def test_each_pictures_part_of_a_loss_has_the_loss_as_its_mean() -> None:
    shares, truth = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1])
    assert scores.log_losses(shares, truth) == pytest.approx([math.log(4), math.log(2)])
    assert scores.log_loss(shares, truth) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert scores.briers(shares, truth) == pytest.approx([2 * 0.75**2, 0.5])
    assert scores.brier(shares, truth) == pytest.approx((2 * 0.75**2 + 0.5) / 2)


def test_float32_is_summed_in_float64() -> None:
    """Probabilities are stored as float32; a hundred thousand of them must not add their rounding up."""
    random = np.random.default_rng(0)
    shares = softmax(random.normal(size=(100_000, 3))).astype(np.float32)
    truth = random.integers(0, 3, 100_000)
    for figure in (scores.log_loss, scores.brier, scores.calibration_error):
        assert figure(shares, truth) == pytest.approx(figure(shares.astype(np.float64), truth), abs=1e-12)
    assert scores.roc_auc(shares[:, 0], truth == 0) == scores.roc_auc(shares[:, 0].astype(np.float64), truth == 0)
