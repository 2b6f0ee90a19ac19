"""The figures of `evaluation.json`: every one with its interval, and nothing that JSON does not know."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.evaluation import figures, intervals, scores
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Measurement
from tasks.evaluation.measure import measure
from tasks.evaluation.metrics import as_json
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tests.evaluation.build import counted, evidence, sample

THREE = ("a", "b", "c")
TEST = [[20, 3, 2], [1, 15, 4], [0, 2, 8]]
WATCH = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100)


def three(grouped: bool = False) -> Evidence:
    train, validation = counted([[30, 0, 0], [1, 24, 0], [0, 0, 15]]), counted([[10, 2, 0], [1, 9, 0], [1, 1, 6]])
    return evidence(counted(TEST, group_size=2), train=train, validation=validation, classes=THREE, grouped=grouped)


def keys_of(body: dict[str, Any]) -> set[str]:
    return set(body) - {
        "intervals",
        "confusion_matrix",
        "n",
        "argmax",
        "splits",
        "calibration_error_before_temperature",
    }


def figure(found: Measurement) -> dict[str, Any]:
    return {"value": as_json(found.value), "interval": [as_json(end) for end in found.interval], "n": found.n}


# --- of a split


@pytest.mark.parametrize("grouped", [False, True])
def test_every_figure_is_the_measured_one_and_has_its_interval(grouped: bool) -> None:
    shown = three(grouped)
    body = figures.of_sample(shown.test, shown, 0.95)
    assert keys_of(body) == set(body["intervals"])
    assert body["n"] == 55
    assert body["confusion_matrix"] == TEST
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_precision", "log_loss", "brier"):
        found = measure(name, shown.test, None, 3, grouped, 0.95)
        assert (body[name], body["intervals"][name]) == (found.value, list(found.interval))
    for name in ("recall", "precision", "f1", "roc_auc", "pr_auc"):
        assert list(body[name]) == list(THREE)
        for i, label in enumerate(THREE):
            found = measure(name, shown.test, i, 3, grouped, 0.95)
            assert (body[name][label], body["intervals"][name][label]) == (found.value, list(found.interval))
    mean = measure("roc_auc", shown.test, None, 3, grouped, 0.95)
    assert (body["macro_roc_auc"], body["intervals"]["macro_roc_auc"]) == (mean.value, list(mean.interval))
    assert "macro_pr_auc" in body


def test_decisions_alone_leave_out_what_no_operating_point_changes() -> None:
    shown = three()
    whole, decisions = (figures.of_sample(shown.test, shown, 0.95, only) for only in (False, True))
    assert set(whole) - set(decisions) == {
        "log_loss", "brier", "calibration_error", "roc_auc", "pr_auc", "macro_roc_auc", "macro_pr_auc",
    }  # fmt: skip
    assert {key: decisions[key] for key in keys_of(decisions)} == {key: whole[key] for key in keys_of(decisions)}


def test_a_very_large_sample_has_rankings_without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing all of them a thousand times would take too long."""
    shown = three()
    cost = 3 * 55  # classes, pictures
    for most, drawn in ((cost, True), (cost - 1, False)):
        monkeypatch.setattr(figures, "_RANKED", most)
        body = figures.of_sample(shown.test, shown, 0.95)
        assert body["macro_pr_auc"] is not None and None not in body["roc_auc"].values()
        assert (None not in body["intervals"]["macro_pr_auc"]) == drawn
        assert body["log_loss"] is not None


def test_the_splits_are_served_and_at_argmax() -> None:
    """Served, everything is called bad; the probabilities say otherwise."""
    truth = [0] * 6 + [1] * 4
    likeliest = sample(truth)
    served = replace(likeliest, decided=np.ones(10, np.int64))
    shown = evidence(served, train=likeliest, validation=sample(truth, [0] * 10))
    body = figures.by_split(shown, 1.0, 0.95)
    assert (body["accuracy"], body["argmax"]["accuracy"]) == (0.4, 1.0)
    assert (body["train_accuracy"], body["validation_accuracy"]) == (1.0, 0.6)
    assert set(body["splits"]) == {"train", "validation"}
    assert body["splits"]["validation"]["recall"] == {"good": 1.0, "bad": 0.0}
    assert "log_loss" not in body["argmax"]


def test_the_calibration_error_is_given_before_and_after_the_temperature() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3)) + 2 * np.eye(3)[truth]

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(values) / np.exp(values).sum(axis=1, keepdims=True))

    served = sample(truth.tolist(), probabilities=softmax(logits / 2.5), classes=3)
    body = figures.by_split(evidence(served, classes=THREE), 2.5, 0.95)
    assert body["calibration_error"] == scores.calibration_error(served.probabilities, truth)
    before = scores.calibration_error(softmax(logits), truth)
    assert body["calibration_error_before_temperature"] == pytest.approx(before, abs=1e-4)
    assert body["calibration_error_before_temperature"] != pytest.approx(body["calibration_error"], abs=0.05)


def test_what_is_undefined_is_null_everywhere() -> None:
    """A class without test pictures, no head-only figures, a slice of one class."""
    test = sample([0, 0, 0], [0, 1, 0], slices={"site": ["n", "n", "s"]}, classes=3)
    shown = evidence(test, train=counted([[5, 0, 0], [0, 3, 0], [0, 0, 2]]), classes=THREE)
    body = figures.by_split(shown, 1.0, 0.95)
    assert body["recall"] == {"a": pytest.approx(2 / 3), "b": None, "c": None}
    assert body["intervals"]["recall"]["b"] == [None, None]
    assert (body["macro_recall"], body["macro_roc_auc"]) == (None, None)
    text = json.dumps(
        [body, figures.baselines(shown, 0.95), figures.slices(shown, DecisionSpec(), 0.95)], allow_nan=False
    )
    assert "NaN" not in text


# --- baselines


def test_baselines_have_their_figures_and_our_gains() -> None:
    test = counted([[45, 5], [10, 40]])
    head = np.eye(2)[counted([[40, 10], [20, 30]]).decided] * 0.6 + 0.2
    shown = evidence(replace(test, decided=np.ones(100, np.int64)), train=counted([[30, 0], [0, 70]]), head_only=head)
    body = figures.baselines(shown, 0.95)
    assert set(body) == {"majority", "head_only"}
    majority, alone = body["majority"], body["head_only"]
    assert majority["label"] == "bad"
    assert (majority["accuracy"], majority["recall"]) == (0.5, {"good": 0.0, "bad": 1.0})
    assert majority["log_loss"] == pytest.approx(-(np.log(0.3) + np.log(0.7)) / 2)
    assert alone["accuracy"] == 0.7
    assert set(alone["gains"]) == {"accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss"}
    # ours at argmax is right on 85, whatever was served
    assert majority["gains"]["accuracy"]["value"] == pytest.approx(0.35)
    assert alone["gains"]["accuracy"]["value"] == pytest.approx(0.15)
    low, high = alone["gains"]["accuracy"]["interval"]
    assert low < 0.15 < high
    assert alone["gains"]["accuracy"]["n"] == 100
    assert majority["gains"]["macro_precision"]["value"] is None, "the majority has no precision of the other class"


def test_a_head_that_is_not_known_is_no_baseline() -> None:
    assert set(figures.baselines(evidence(counted([[5, 0], [0, 5]])), 0.95)) == {"majority"}


# --- slices


def in_slices() -> Evidence:
    """North: 8 of 10 good and 3 of 4 bad. South: 5 of 5 good, 1 of 2 bad. East: 1 of 2 good, no bad ones."""
    cells = [("n", 0, 8, 2), ("n", 1, 3, 1), ("s", 0, 5, 0), ("s", 1, 1, 1), ("e", 0, 1, 1)]
    truth, decided, sites = [], [], []
    for site, label, right, wrong in cells:
        truth += [label] * (right + wrong)
        decided += [label] * right + [1 - label] * wrong
        sites += [site] * (right + wrong)
    return evidence(sample(truth, decided, slices={"site": sites, "camera": ["x"] * len(truth)}))


def test_every_slice_has_its_accuracy_and_every_class_s_recall() -> None:
    body = figures.slices(in_slices(), DecisionSpec(), 0.95)
    rows = {row["scope"]: row for row in body["rows"]}
    assert list(rows) == ["site=e", "site=n", "site=s", "camera=x"]
    north = in_slices().test.where("site", "n")
    assert rows["site=n"] == {
        "scope": "site=n",
        "n": 14,
        "accuracy": figure(measure("accuracy", north, None, 2, False, 0.95)),
        "recall": {
            "good": figure(measure("recall", north, 0, 2, False, 0.95)),
            "bad": figure(measure("recall", north, 1, 2, False, 0.95)),
        },
    }
    assert rows["site=e"]["recall"]["bad"] == {"value": None, "interval": [None, None], "n": 0}
    assert rows["camera=x"]["n"] == 23


def test_the_worst_slice_is_worst_in_accuracy_or_in_the_watched_class_s_recall() -> None:
    """The east has no bad pictures: its recall is not measured, and not the worst."""
    plain = figures.slices(in_slices(), DecisionSpec(), 0.95)["worst"]
    assert (plain["scope"], plain["label"], plain["metric"]) == ("site=e", None, "accuracy")
    assert (plain["value"], plain["n"]) == (0.5, 2)
    watched = figures.slices(in_slices(), WATCH, 0.95)["worst"]
    assert (watched["scope"], watched["label"], watched["metric"]) == ("site=s", "bad", "recall")
    assert (watched["value"], watched["n"]) == (0.5, 2)
    assert watched["interval"][0] < 0.5 < watched["interval"][1]


def test_without_slices_there_is_no_worst() -> None:
    assert figures.slices(evidence(counted([[5, 0], [0, 5]])), WATCH, 0.95) == {"rows": [], "worst": None}
    healthy = evidence(sample([0, 0], slices={"site": ["n", "s"]}))
    body = figures.slices(healthy, WATCH, 0.95)
    assert (len(body["rows"]), body["worst"]) == (2, None)
