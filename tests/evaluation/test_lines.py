"""Which lines hold, what their scopes mean, and what each of them measures on evidence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from serving.errors import BadInput
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Machine
from tasks.evaluation.gate import Line, Measurement, judge, overall
from tasks.evaluation.intervals import wilson
from tasks.evaluation.lines import (
    PARITY,
    Scope,
    built_in_lines,
    measured,
    parity_lines,
    parse_scope,
    wanted_lines,
)
from tasks.evaluation.measure import gain, gap
from tasks.evaluation.spec import GAINS, GAPS, METRICS, DecisionSpec, GateSpec, LineSpec, WatchSpec
from tests.evaluation.build import CLASSES, counted, evidence, sample

SITES = {"site": ("", "north", "south"), "camera": ("a=1", "b")}
ODD = ("good", "bad in site=north", "a=b", "in")  # names that look like scopes


def gate(*lines: dict[str, Any], **others: Any) -> GateSpec:
    return GateSpec(lines=tuple(LineSpec(**{"threshold": 0.5, **line}) for line in lines), **others)


def found(line: Line, shown: Evidence, confidence: float = 0.95) -> Measurement:
    measurement = measured(line, shown, confidence)
    assert measurement is not None
    return measurement


# --- scopes


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("overall", Scope(None)),
        ("good", Scope(0)),
        ("bad", Scope(1)),
        ("site=north", Scope(None, "site", "north")),
        ("site=*", Scope(None, "site", "*")),
        ("site=", Scope(None, "site", "")),
        ("camera=a=1", Scope(None, "camera", "a=1")),
        ("bad in site=north", Scope(1, "site", "north")),
        ("bad in camera=a=1", Scope(1, "camera", "a=1")),
        ("good in site=*", Scope(0, "site", "*")),
    ],
)
def test_a_scope_is_all_a_class_a_slice_or_a_class_in_a_slice(text: str, scope: Scope) -> None:
    assert parse_scope(text, CLASSES, SITES) == scope


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("bad in site=north", Scope(1)),
        ("a=b", Scope(2)),
        ("in", Scope(3)),
        ("bad in site=north in site=north", Scope(1, "site", "north")),
        ("a=b in site=south", Scope(2, "site", "south")),
        ("in in site=south", Scope(3, "site", "south")),
    ],
)
def test_a_class_may_be_called_anything(text: str, scope: Scope) -> None:
    assert parse_scope(text, ODD, SITES) == scope


def test_of_two_classes_that_fit_the_longer_is_meant() -> None:
    text = "bad in site=north in site=north"
    for classes in (("bad", "bad in site=north"), ("bad in site=north", "bad")):
        slices = {"site": ("north", "north in site=north")}
        assert parse_scope(text, classes, slices) == Scope(classes.index("bad in site=north"), "site", "north")


@pytest.mark.parametrize(
    "text",
    [
        "ugly",
        "ugly in site=north",
        "place=north",
        "bad in place=north",
        "site",
        "bad in site",
        "",
        " in ",
        "Overall",
        "bad ",
    ],
)
def test_an_unknown_scope_is_refused_and_told_what_there_is(text: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_scope(text, CLASSES, SITES)
    for part in ("expected overall, or one of good, bad, site=", "camera=", f"found {text}", ": correct gate"):
        assert part in str(raised.value)


# --- wanted lines


def test_the_short_forms_are_lines_by_interval_on_test() -> None:
    short = GateSpec(min_accuracy=0.9, min_macro_recall=0.8, min_recall={"bad": 0.7})
    assert wanted_lines(short, CLASSES, {}) == (
        Line("accuracy", "test", "overall", ">=", 0.9, "fail", "interval"),
        Line("macro_recall", "test", "overall", ">=", 0.8, "fail", "interval"),
        Line("recall", "test", "bad", ">=", 0.7, "fail", "interval"),
    )
    assert [line.scope for line in wanted_lines(GateSpec(min_recall=0.6), CLASSES, {})] == ["good", "bad"]
    assert wanted_lines(GateSpec(), CLASSES, {}) == ()
    nought = GateSpec(min_accuracy=0, min_macro_recall=0, min_recall=0)
    assert [line.threshold for line in wanted_lines(nought, CLASSES, {})] == [0, 0, 0, 0]


def test_a_line_is_taken_as_it_is_written() -> None:
    wanted = LineSpec(metric="log_loss", split="train", operator="<=", threshold=0.3, severity="warn", evidence="point")
    expected = Line("log_loss", "train", "overall", "<=", 0.3, "warn", "point")
    assert wanted_lines(GateSpec(lines=(wanted,)), CLASSES, {}) == (expected,)


def test_a_star_is_a_line_for_every_value() -> None:
    wanted = gate({"metric": "accuracy", "scope": "site=*"}, {"metric": "recall", "scope": "bad in camera=*"})
    assert [line.scope for line in wanted_lines(wanted, CLASSES, SITES)] == [
        "site=", "site=north", "site=south", "bad in camera=a=1", "bad in camera=b",
    ]  # fmt: skip


def test_one_value_is_one_line() -> None:
    wanted = gate({"metric": "accuracy", "scope": "site=south"}, {"metric": "recall", "scope": "bad in camera=a=1"})
    assert [line.scope for line in wanted_lines(wanted, CLASSES, SITES)] == ["site=south", "bad in camera=a=1"]


def test_a_gap_stands_under_the_split_it_looks_at() -> None:
    assert [line.split for line in wanted_lines(gate({"metric": "accuracy_gap"}), CLASSES, {})] == ["validation"]


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        (GateSpec(min_recall={"ugly": 0.6}), "found ugly"),
        (gate({"metric": "recall", "scope": "ugly"}), "found ugly"),
        (gate({"metric": "recall", "scope": "ugly in site=*"}), "found ugly in site="),
        (gate({"metric": "accuracy", "scope": "place=*"}), "found place="),
        (gate({"metric": "roc_auc", "scope": "ugly"}), "one of good, bad, site=..., camera=..., as"),
    ],
)
def test_a_line_about_what_does_not_exist_is_refused(wanted: GateSpec, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        wanted_lines(wanted, CLASSES, SITES)


def test_a_line_about_a_value_that_no_picture_has_is_refused() -> None:
    """A typing error would otherwise be found after hours of training, as a line that was not measured."""
    with pytest.raises(BadInput) as raised:
        wanted_lines(gate({"metric": "accuracy", "scope": "camera=c"}), CLASSES, SITES)
    assert str(raised.value) == (
        "expected one of a=1, b as camera in a gate line's scope, found c, which no test picture has: correct gate, or "
        "add pictures"
    )


@pytest.mark.parametrize(
    ("metric", "scope", "wanted"),
    [
        ("recall", "site=north", "of a class"),
        ("f1", "site=*", "of a class"),
        ("accuracy", "bad in site=north", "of all classes"),
        ("log_loss", "bad in site=*", "of all classes"),
    ],
)
def test_a_slice_has_a_class_exactly_where_the_metric_has_one(metric: str, scope: str, wanted: str) -> None:
    with pytest.raises(BadInput) as raised:
        wanted_lines(gate({"metric": metric, "scope": scope}), CLASSES, SITES)
    found = scope.replace("*", "")
    assert str(raised.value) == f"expected a scope {wanted} for {metric}, found {found}: correct gate"


def test_a_ranking_may_have_a_class_in_a_slice_or_none() -> None:
    scopes = ["overall", "bad", "site=north", "bad in site=north"]
    wanted = gate(*({"metric": "roc_auc", "scope": scope} for scope in scopes))
    assert [line.scope for line in wanted_lines(wanted, CLASSES, SITES)] == scopes


def test_a_class_that_looks_like_a_slice_is_no_scope_of_an_overall_figure() -> None:
    """`a=b` is a class here: accuracy has none."""
    with pytest.raises((BadInput, ValidationError)):
        wanted_lines(gate({"metric": "accuracy", "scope": "a=b"}), ODD, SITES)


@pytest.mark.parametrize("scope", ["overall", "site=north"])
def test_a_least_recall_is_of_a_class(scope: str) -> None:
    with pytest.raises((BadInput, ValidationError)):
        wanted_lines(GateSpec(min_recall={scope: 0.5}), CLASSES, SITES)


@pytest.mark.parametrize("value", ["made in Japan", "a in b=c", "x=y"])
def test_a_slice_s_value_may_be_any_text(value: str) -> None:
    slices = {"origin": (value, "other")}
    scopes = [line.scope for line in wanted_lines(gate({"metric": "accuracy", "scope": "origin=*"}), CLASSES, slices)]
    assert scopes == [f"origin={value}", "origin=other"]
    assert parse_scope(scopes[0], CLASSES, slices) == Scope(None, "origin", value)
    assert parse_scope(f"bad in origin={value}", CLASSES, slices) == Scope(1, "origin", value)


# --- built-in lines


def test_the_built_in_lines_are_by_value_and_always_fail() -> None:
    decision = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
    assert built_in_lines(decision, CLASSES, {"good": 0.9, "bad": 0.1}) == (
        Line("balanced_accuracy", "test", "overall", ">", 0.5, "fail", "point"),
        Line("recall", "test", "good", ">=", 0.5, "fail", "point"),
        Line("recall", "test", "bad", ">=", 0.5, "fail", "point"),
        Line("precision", "test", "bad", ">", 0.1, "fail", "point"),
    )
    of_five = built_in_lines(DecisionSpec(), tuple("abcde"), dict.fromkeys("abcde", 0.2))
    assert of_five[0].threshold == 0.2
    assert [line.metric for line in of_five[1:]] == ["recall"] * 5


def test_high_accuracy_with_a_missed_class_is_refused_by_default() -> None:
    """98 % accuracy, recall 0.12 on the rare class: the built-in lines alone refuse it and name the class."""
    rare = evidence(counted([[975, 0], [22, 3]]))
    lines = built_in_lines(DecisionSpec(), CLASSES, {"good": 0.975, "bad": 0.025})
    checks = [judge(line, found(line, rare)) for line in lines]
    assert overall(checks) == "REJECTED"
    (failing,) = [check for check in checks if check.verdict == "REJECTED"]
    assert (failing.metric, failing.scope, failing.value, failing.n) == ("recall", "bad", 0.12, 25)
    assert (failing.ci_low, failing.ci_high) == wilson(3, 25, 0.95)


def test_a_model_that_always_says_one_thing_is_refused_by_default() -> None:
    always = evidence(counted([[50, 0], [50, 0]]))
    lines = built_in_lines(DecisionSpec(), CLASSES, {"good": 0.5, "bad": 0.5})
    assert [judge(line, found(line, always)).verdict for line in lines] == ["REJECTED", "PASSED", "REJECTED"]


def test_a_watched_class_must_be_more_precise_than_its_prevalence() -> None:
    watch = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
    line = built_in_lines(watch, CLASSES, {"good": 0.7, "bad": 0.3})[-1]
    assert line.metric == "precision"
    crying_wolf = found(line, evidence(counted([[60, 80], [26, 34]])))
    assert crying_wolf.value == pytest.approx(34 / 114)
    assert judge(line, crying_wolf).verdict == "REJECTED"
    assert judge(line, found(line, evidence(counted([[70, 70], [20, 40]])))).verdict == "PASSED"


# --- what a line measures


def in_sites() -> Evidence:
    """16 pictures: at north 3 of 4 good and 1 of 2 bad are right, at south 5 of 5 and 4 of 5."""
    truth = [0] * 4 + [1] * 2 + [0] * 5 + [1] * 5
    decided = [0, 0, 0, 1] + [1, 0] + [0] * 5 + [1, 1, 1, 1, 0]
    sites = ["north"] * 6 + ["south"] * 10
    return evidence(sample(truth, decided, slices={"site": sites, "type": ["made in Japan"] * 16}))


@pytest.mark.parametrize(
    ("metric", "scope", "hits", "n"),
    [
        ("accuracy", "overall", 13, 16),
        ("recall", "bad", 5, 7),
        ("accuracy", "site=north", 4, 6),
        ("accuracy", "site=south", 9, 10),
        ("recall", "bad in site=north", 1, 2),
        ("recall", "bad in site=south", 4, 5),
        ("precision", "bad in site=north", 1, 2),
        ("precision", "good in site=south", 5, 6),
    ],
)
def test_a_scope_chooses_the_pictures(metric: str, scope: str, hits: int, n: int) -> None:
    line = Line(metric, "test", scope, ">=", 0.5)
    assert found(line, in_sites()) == Measurement(hits / n, wilson(hits, n, 0.95), n, proportion=True)


@pytest.mark.parametrize(("metric", "scope"), [("accuracy", "site=north"), ("recall", "bad in site=north")])
def test_a_slice_without_pictures_is_not_measured_and_does_not_pass(metric: str, scope: str) -> None:
    """There are pictures of the north on test, and none on validation."""
    shown = evidence(in_sites().test, validation=sample([0, 1], slices={"site": ["south"] * 2}))
    line = Line(metric, "validation", scope, ">=", 0.0)
    nothing = found(line, shown)
    assert (math.isnan(nothing.value), nothing.n) == (True, 0)
    assert judge(line, nothing).verdict == "INCONCLUSIVE"


def test_a_line_looks_at_its_own_split() -> None:
    shown = evidence(counted([[10, 0], [0, 10]]), train=counted([[8, 2], [2, 8]]), validation=counted([[9, 1], [1, 9]]))
    for split, value in (("train", 0.8), ("validation", 0.9), ("test", 1.0)):
        assert found(Line("accuracy", split, "overall", ">=", 0.5), shown).value == value


def test_an_upper_limit_needs_the_upper_end_below_it() -> None:
    line = Line("accuracy", "train", "overall", "<=", 0.95)
    verdicts = [judge(line, found(line, evidence(counted([[k, 100 - k], [0, 0]])))).verdict for k in (80, 94, 97)]
    assert verdicts == ["PASSED", "INCONCLUSIVE", "REJECTED"]


@pytest.mark.parametrize("metric", GAPS)
def test_a_gap_is_between_training_and_validation(metric: str) -> None:
    train, validation = counted([[45, 5], [5, 45]], name="a"), counted([[15, 5], [7, 13]], name="b")
    shown = evidence(counted([[1, 0], [0, 1]]), train=train, validation=validation)
    expected = gap(metric.removesuffix("_gap"), train, validation, 2, False, 0.95)
    assert expected.value > 0
    assert found(Line(metric, "validation", "overall", "<=", 0.5), shown) == expected


@pytest.mark.parametrize("metric", GAINS)
def test_a_gain_is_over_the_named_baseline_at_argmax(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The served threshold is no part of it: a baseline has none."""
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    random = np.random.default_rng(0)
    bad = np.clip(np.array([0, 0, 0, 0, 1, 1, 1, 1] * 5) * 0.4 + random.random(40) * 0.6, 0.01, 0.99)
    shown = sample([0, 0, 0, 0, 1, 1, 1, 1] * 5, [1] * 40, np.stack([1 - bad, bad], axis=1))
    head = np.tile([0.55, 0.45], (40, 1))
    head[::8] = 0.3, 0.7
    train = counted([[30, 0], [0, 10]])
    plain, _, baseline = metric.partition("_over_")
    theirs = head if baseline == "head_only" else np.tile([0.75, 0.25], (40, 1))
    expected = gain(plain, shown.at_argmax(), replace(shown, probabilities=theirs).at_argmax(), 2, False, 0.95)
    result = found(Line(metric, "test", "overall", ">=", 0), evidence(shown, train=train, head_only=head))
    assert (result.n, result.unit) == (40, "pictures")
    np.testing.assert_equal([result.value, *result.interval], [expected.value, *expected.interval])
    assert result.value > 0


def test_a_gain_over_a_head_that_is_not_known_is_not_measured() -> None:
    line = Line("accuracy_over_head_only", "test", "overall", ">=", 0.0)
    assert measured(line, evidence(counted([[10, 0], [0, 10]])), 0.95) is None
    assert judge(line, None).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("model_size_mb", "latency_ms")])
def test_no_pictures_are_no_measurement(metric: str) -> None:
    nothing = sample([])
    shown = evidence(nothing, machine=Machine(math.nan, math.nan, ()))
    scope = "bad" if metric in ("recall", "precision", "f1") else "overall"
    for operator in (">=", "<="):
        line = Line(metric, "test", scope, operator, -1.0 if operator == ">=" else 9.0)
        assert judge(line, measured(line, shown, 0.95)).verdict == "INCONCLUSIVE"


def test_groups_are_the_unit_where_there_are_groups() -> None:
    shown = evidence(counted([[90, 10], [10, 90]], group_size=10), grouped=True)
    recall = found(Line("recall", "test", "bad", ">=", 0.5), shown)
    assert (recall.n, recall.unit) == (10, "groups")
    gap_line = found(Line("accuracy_gap", "validation", "overall", "<=", 0.5), shown)
    assert (gap_line.n, gap_line.unit) == (20, "groups")
    gain_line = found(Line("accuracy_over_majority", "test", "overall", ">=", 0.1), shown)
    assert (gain_line.n, gain_line.unit) == (20, "groups")


# --- machine lines


def test_a_size_is_exact() -> None:
    line = Line("model_size_mb", "test", "overall", "<=", 2.0)
    size = found(line, evidence(counted([[1, 0], [0, 1]])))
    assert size == Measurement(2.0, (2.0, 2.0), 1, unit="files")
    assert judge(line, size).verdict == "PASSED"
    assert judge(replace(line, threshold=1.999), size).verdict == "REJECTED"


def test_a_latency_is_the_median_run_with_its_interval() -> None:
    shown = evidence(counted([[1, 0], [0, 1]]))
    latency = found(Line("latency_ms", "test", "overall", "<=", 30), shown)
    assert latency == Measurement(24.5, intervals.median_ends(np.arange(10.0, 40.0), 0.95), 30, unit="runs")
    assert latency.interval == (19.0, 30.0)
    verdicts = [judge(Line("latency_ms", "test", "overall", "<=", limit), latency).verdict for limit in (30, 29, 24)]
    assert verdicts == ["PASSED", "INCONCLUSIVE", "REJECTED"]


def test_no_runs_are_no_latency() -> None:
    line = Line("latency_ms", "test", "overall", "<=", 1e9)
    shown = evidence(counted([[1, 0], [0, 1]]), machine=Machine(0.0, 0.0, ()))
    assert judge(line, found(line, shown)).verdict == "INCONCLUSIVE"
    few = evidence(counted([[1, 0], [0, 1]]), machine=Machine(0.0, 0.0, (1.0, 2.0, 3.0)))
    assert found(line, few).value == 2.0
    assert judge(line, found(line, few)).verdict == "INCONCLUSIVE", "three runs have no interval"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parity_must_hold_for_probabilities_and_logits(precision: str) -> None:
    probability, logit = PARITY[precision]
    lines = parity_lines(precision)
    assert lines == (
        Line("parity", "test", "overall", "<=", probability, "fail", "point"),
        Line("parity_logits", "test", "overall", "<=", logit, "fail", "point"),
    )

    def verdicts(first: float, second: float) -> list[str]:
        shown = evidence(counted([[5, 0], [0, 5]]), machine=Machine(first, second, ()))
        return [judge(line, found(line, shown)).verdict for line in lines]

    assert verdicts(probability, logit) == ["PASSED", "PASSED"]
    assert verdicts(probability * 1.01, logit) == ["REJECTED", "PASSED"]
    assert verdicts(probability, logit * 1.01) == ["PASSED", "REJECTED"]
    assert verdicts(math.nan, math.nan) == ["INCONCLUSIVE", "INCONCLUSIVE"]
    assert found(lines[0], evidence(counted([[5, 0], [0, 5]]))).n == 10


def test_the_parity_of_float32_is_one_ten_thousandth() -> None:
    assert PARITY["fp32"] == (1e-4, 1e-3)


def test_int8_is_shown_beside_its_network_and_not_held_to_it() -> None:
    lines = parity_lines("int8")
    assert [line.severity for line in lines] == ["warn", "warn"]
    assert [line.threshold for line in lines] == list(PARITY["int8"])
