"""What a user may write into `decision` and `gate`, and what is refused before any picture is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.evaluation.measure import ON_PICTURES
from tasks.evaluation.spec import GAINS, GAPS, MACHINE, METRICS, DecisionSpec, GateSpec, LineSpec, WatchSpec


def line(metric: str, **changes: Any) -> LineSpec:
    return LineSpec(**{"metric": metric, "threshold": 0.5, **changes})


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_a_line(metric: str) -> None:
    by_class = metric in ("recall", "precision", "f1")
    found = line(metric, scope="bad" if by_class else "overall")
    assert (found.split, found.operator, found.severity, found.evidence) == ("test", ">=", "fail", "interval")


def test_every_metric_that_is_measured_can_be_wanted() -> None:
    assert set(METRICS) == {*ON_PICTURES, *GAPS, *GAINS, *MACHINE}
    assert len(set(METRICS)) == len(METRICS)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"metric": "acuracy"}, "expected one of accuracy, .*found 'acuracy'"),
        ({"metric": "recall"}, "expected a class as scope of recall"),
        ({"metric": "recall", "scope": "overall"}, "expected a class as scope of recall"),
        ({"metric": "accuracy", "scope": "bad"}, "found 'bad'"),
        ({"metric": "log_loss", "scope": "bad"}, "found 'bad'"),
        ({"metric": "accuracy_gap", "scope": "site=north"}, "expected scope `overall` for accuracy_gap"),
        ({"metric": "log_loss_over_majority", "scope": "bad in site=north"}, "expected scope `overall`"),
        ({"metric": "latency_ms", "scope": "site=north"}, "expected scope `overall` for latency_ms"),
        ({"metric": "model_size_mb", "split": "train"}, "expected split `test` for model_size_mb"),
        ({"metric": "accuracy_over_majority", "split": "validation"}, "expected split `test`"),
        ({"metric": "accuracy", "threshold": 1.2}, "between 0 and 1 for accuracy, found 1.2"),
        ({"metric": "roc_auc", "threshold": -0.1}, "between 0 and 1"),
        ({"metric": "recall", "scope": "bad", "threshold": 80}, "between 0 and 1"),
        ({"metric": "accuracy", "threshold": float("nan")}, "finite"),
        ({"metric": "accuracy", "operator": ">"}, "operator"),
        ({"metric": "accuracy", "severity": "ignore"}, "severity"),
        ({"metric": "accuracy", "evidence": "hope"}, "evidence"),
        ({"metric": "accuracy", "split": "tset"}, "split"),
        ({"metric": "accuracy", "treshold": 0.5}, "treshold"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LineSpec(**{"threshold": 0.5, **wanted})


def test_a_class_is_watched_once() -> None:
    first, second = WatchSpec(label="3", recall=0.9), WatchSpec(label="3", precision=0.8)
    with pytest.raises(ValidationError, match="expected each class to be watched once, found '3' again"):
        DecisionSpec(watch=(first, WatchSpec(label="4", recall=0.9), second))


@pytest.mark.parametrize("threshold", [-0.3, 12.5])
@pytest.mark.parametrize("metric", ["log_loss", "brier", "accuracy_gap", "log_loss_over_majority", "latency_ms"])
def test_what_is_no_share_may_have_any_threshold(metric: str, threshold: float) -> None:
    assert line(metric, threshold=threshold, operator="<=").threshold == threshold


def test_a_precision_over_the_majority_is_refused() -> None:
    """A baseline that never decides a class has no precision there: the gain could never be measured."""
    assert line("macro_precision_over_head_only", threshold=0.0)
    with pytest.raises(ValidationError, match="expected one of .*, found 'macro_precision_over_majority'"):
        line("macro_precision_over_majority", threshold=0.0)


def test_a_line_has_a_threshold() -> None:
    with pytest.raises(ValidationError, match="threshold"):
        LineSpec.model_validate({"metric": "accuracy"})


@pytest.mark.parametrize("wanted", [{}, {"recall": 0.9, "precision": 0.9}, {"recall": 1.0}, {"precision": 0.0}])
def test_a_watched_class_wants_one_thing_that_can_be_shown(wanted: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        WatchSpec.model_validate({"label": "bad", **wanted})


@pytest.mark.parametrize("recall", [1.2, -0.1, {"bad": 1.2}, {"bad": 0.5, "good": -0.5}])
def test_a_recall_is_a_share(recall: float | dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="expected min_recall between 0 and 1"):
        GateSpec(min_recall=recall)


@pytest.mark.parametrize(
    "field", ["min_accuracy", "min_macro_recall", "champion_recall_margin", "champion_accuracy_margin"]
)
def test_shares_and_margins_lie_between_nought_and_one(field: str) -> None:
    for value in (-0.01, 1.01):
        with pytest.raises(ValidationError, match=field):
            GateSpec.model_validate({field: value})
    for value in (0, 1):
        assert getattr(GateSpec.model_validate({field: value}), field) == value


@pytest.mark.parametrize("confidence", [0.5, 1.0, 0.3])
def test_a_confidence_is_better_than_a_coin(confidence: float) -> None:
    with pytest.raises(ValidationError, match="confidence"):
        GateSpec(confidence=confidence)
