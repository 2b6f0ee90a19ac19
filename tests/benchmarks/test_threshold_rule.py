"""The simulated threshold rule, on scores with a known distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from benchmarks import threshold_rule
from benchmarks.threshold_rule import LABEL, Population, chosen, measure, naive, requirements
from tasks.evaluation.evidence import Evidence, Machine, load, save
from tasks.evaluation.metrics import Ints
from tasks.evaluation.sample import Sample


def evidence() -> Evidence:
    """Logits of positives N(1, 1), of negatives N(-1, 1), as many as the demo has."""
    random = np.random.default_rng(0)

    def sample(positives: int, negatives: int) -> Sample:
        logits = np.concatenate([random.normal(1, 1, positives), random.normal(-1, 1, negatives)])
        scores = expit(logits)
        truth: Ints = np.repeat([0, 1], [positives, negatives]).astype(np.int64)
        nothing = tuple(f"{i}" for i in range(len(truth)))
        probabilities = np.stack([scores, 1 - scores], axis=1).astype(np.float32)
        return Sample(truth, probabilities, probabilities.argmax(axis=1), nothing, nothing)

    samples = {"train": sample(10, 10), "validation": sample(123, 270), "test": sample(205, 449)}
    return Evidence((LABEL, "other"), False, samples, None, None, 0, Machine(np.nan, np.nan, ()))


def test_the_rule_keeps_its_promise_and_the_naive_one_does_not(tmp_path: Path) -> None:
    save(evidence(), tmp_path)
    figures = measure(load(tmp_path), draws=200)
    assert all(holds for holds, _ in requirements(figures))
    reached = {(row["population"], row["rule"]): row["reached"] for row in figures["results"]}
    assert reached["smoothed", "naive"] < 0.7
    assert figures["hits_needed"] == 117
    assert figures["expected"] == pytest.approx(0.968, abs=0.001)
    assert "117 of 123" in threshold_rule.table(figures)


def test_a_rule_that_promises_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_rule, "chosen", lambda positives, _: naive(positives))
    assert not any(holds for holds, _ in requirements(measure(evidence(), draws=100)))


def test_thresholds_by_hand() -> None:
    positives = np.arange(100.0) / 10 - 5
    assert naive(positives) == positives[10], "90 of 100 lie at or above it"
    # 96 of 100 are the fewest whose one-sided bound reaches 0.9
    assert chosen(positives, np.array([-9.0])) == pytest.approx(positives[4], abs=1e-5)


def test_the_share_above_a_threshold_is_that_of_the_kernels() -> None:
    assert Population(np.array([0.0]), 2.0).above(2.0) == pytest.approx(stats.norm.sf(1))
    assert Population(np.array([0.0, 1.0]), 0.0).above(1.0) == 0.5
