"""The failure that accuracy hides, on real pictures: a good-looking model that misses the rare class is refused."""

from __future__ import annotations

import pytest

from serving.artifact import read
from tasks.certification.certify import read_evaluation
from tests.evaluation.conftest import Rare


def test_a_model_that_misses_the_rare_class_is_rejected_by_default(rare: Rare) -> None:
    figures = read_evaluation(rare.certified)["metrics"]
    assert figures["accuracy"] > 0.95
    assert figures["balanced_accuracy"] > 0.5, "better than chance: only the class's own recall tells"
    assert 0 < figures["recall"]["eight"] < 0.5
    assert rare.certified.verdict == "REJECTED"


def test_what_failed_names_the_class_its_recall_its_interval_and_n(rare: Rare) -> None:
    body = read_evaluation(rare.certified)
    assert body["classes"] == ["eight", "other"]
    (found, missed), (_, others) = body["metrics"]["confusion_matrix"]
    n = found + missed
    assert n == 8
    assert others > 250
    low, high = body["metrics"]["intervals"]["recall"]["eight"]
    (sentence,) = rare.certified.failing
    assert sentence == f"recall of 'eight' on test: {found / n:.4g} ({low:.4g} - {high:.4g}, n {n}), wanted >= 0.5"
    assert high > 0.5, "eight pictures prove little: the built-in line is judged by value"


def test_the_line_says_what_to_do_and_the_artifact_carries_it(rare: Rare) -> None:
    (check,) = [check for check in read_evaluation(rare.certified)["checks"] if check["verdict"] == "REJECTED"]
    assert (check["metric"], check["scope"], check["evidence"]) == ("recall", "eight", "point")
    assert check["advice"].startswith(f"short by {0.5 - check['value']:.4f}: ")
    artifact = read(rare.certified.artifact, rare.certified.digest)
    assert artifact.contents.verdict == "REJECTED"
    assert check in artifact.contents.checks


def test_every_other_line_passes(rare: Rare) -> None:
    verdicts = {
        f"{check['metric']} {check['scope']}": check["verdict"] for check in read_evaluation(rare.certified)["checks"]
    }
    assert verdicts.pop("recall eight") == "REJECTED"
    assert verdicts == dict.fromkeys(
        ("balanced_accuracy overall", "recall other", "parity overall", "parity_logits overall"), "PASSED"
    )


@pytest.mark.parametrize("figure", ["accuracy", "weighted_f1", "weighted_precision"])
def test_figures_that_weigh_by_frequency_would_have_let_it_through(rare: Rare, figure: str) -> None:
    assert read_evaluation(rare.certified)["metrics"][figure] > 0.95
