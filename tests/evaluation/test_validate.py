"""Before export: what could not be decided afterwards is refused, and what is out of reach is said; nothing passes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import sealed
from serving.artifact import Rule, Watch
from serving.errors import ArtifactError, BadInput
from tasks.data.dataset import COLUMNS, PICTURES, Dataset, subset
from tasks.evaluation import intervals
from tasks.evaluation import validate as validating
from tasks.evaluation.gate import Line, Measurement, judge
from tasks.evaluation.spec import DecisionSpec, GateSpec, LineSpec, WatchSpec
from tasks.evaluation.validate import Validated, check_plan, validate
from tests.conftest import Pipeline

SPLITS = ("train", "validation", "test")


def planned(folder: Path, bad: int = 40, groups: int = 1000) -> Dataset:
    """A prepared dataset as far as a plan looks at it: `bad` validation pictures of the class bad, a site each."""
    rows = []
    for split in SPLITS:
        for label, count in (("good", 40), ("bad", bad if split == "validation" else 40)):
            for i in range(count):
                name = f"{split}-{label}-{i}"
                unit = f"{split}-{label}-{i % groups}"
                rows.append((name, name, label, unit, split, ("north", "south")[i % 2]))
    folder.mkdir(exist_ok=True)
    with (folder / PICTURES).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, "slice:site"))
        writer.writerows(rows)
    return Dataset(folder, "key", "plan", ("bad", "good"), 32, "stretch", False, False, ("site",))


def recall(wanted: float, label: str = "bad") -> DecisionSpec:
    return DecisionSpec(watch=(WatchSpec(label=label, recall=wanted),))


# --- the plan


def test_a_plan_that_can_be_decided_is_let_through(tmp_path: Path) -> None:
    gate = GateSpec(
        min_recall={"bad": 0.9},
        lines=(
            LineSpec(metric="accuracy", scope="site=*", threshold=0.5),
            LineSpec(metric="recall", scope="bad in site=north", threshold=0.5),
        ),
    )
    check_plan(planned(tmp_path), recall(0.92), gate)


@pytest.mark.parametrize(
    ("decision", "gate", "match"),
    [
        (recall(0.9, "ugly"), GateSpec(), "found 'ugly': correct decision"),
        (DecisionSpec(), GateSpec(min_recall={"ugly": 0.5}), "found ugly: correct gate"),
        (
            DecisionSpec(),
            GateSpec(lines=(LineSpec(metric="accuracy", scope="place=*", threshold=0.5),)),
            r"bad, good, site=.*found place=\*: correct gate",
        ),
    ],
)
def test_what_does_not_exist_is_refused_before_training(
    decision: DecisionSpec, gate: GateSpec, match: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=match):
        check_plan(planned(tmp_path), decision, gate)


@pytest.mark.parametrize(("bad", "enough"), [(28, False), (29, True)])
def test_too_few_validation_positives_are_refused_before_training(bad: int, enough: bool, tmp_path: Path) -> None:
    """Even a perfect network could not show a recall of 0.9 on 28 pictures."""
    dataset = planned(tmp_path, bad)
    if enough:
        check_plan(dataset, recall(0.9), GateSpec())
        return
    with pytest.raises(BadInput, match="at least 29 validation pictures of 'bad' to show a recall of 0.9, found 28"):
        check_plan(dataset, recall(0.9), GateSpec())


@pytest.mark.parametrize(("groups", "enough"), [(28, False), (29, True)])
def test_too_few_groups_of_validation_positives_are_refused_before_training(
    groups: int, enough: bool, tmp_path: Path
) -> None:
    dataset = replace(planned(tmp_path, bad=200, groups=groups), grouped=True)
    if enough:
        check_plan(dataset, recall(0.9), GateSpec())
        return
    with pytest.raises(BadInput, match="at least 29 validation groups of 'bad' .* found 28 with 200 pictures"):
        check_plan(dataset, recall(0.9), GateSpec())


# --- out of reach


@pytest.mark.parametrize(
    ("operator", "value", "interval", "out"),
    [
        (">=", 0.4, (0.3, 0.4999), True),
        (">=", 0.4, (0.3, 0.5), False),
        (">=", 0.6, (0.55, 0.7), False),
        ("<=", 0.6, (0.5001, 0.7), True),
        ("<=", 0.6, (0.5, 0.7), False),
        ("<=", 0.4, (0.3, 0.45), False),
        ("<=", 0.4, (0.6, 0.7), False),  # the value is in reach, whatever its interval says
        (">=", 0.4, (float("nan"), float("nan")), False),
        (">=", float("nan"), (float("nan"), float("nan")), False),
    ],
)
def test_only_a_line_that_the_whole_interval_misses_is_out_of_reach(
    operator: str, value: float, interval: tuple[float, float], out: bool
) -> None:
    check = judge(Line("log_loss", "validation", "overall", operator, 0.5), Measurement(value, interval, 10))
    assert validating._out_of_reach(check) == out


# --- on the shared model


@pytest.fixture
def validated(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judges the shared model under another gate, in a run of its own."""
    monkeypatch.setattr(intervals, "RESAMPLES", 50)

    def under(gate: GateSpec, decision: DecisionSpec = pipeline.decision) -> Validated:
        return validate(pipeline.tuned, pipeline.dataset, tmp_path / "run", decision, gate)

    return under


def test_lines_on_test_are_looked_at_on_validation(pipeline: Pipeline, validated: Any) -> None:
    """Lines on training pictures, gaps, gains and the machine's are not: there is nothing of them yet."""
    lines = (
        LineSpec(metric="accuracy", split="train", threshold=0.5),
        LineSpec(metric="accuracy_gap", operator="<=", threshold=0.5),
        LineSpec(metric="accuracy_over_majority", threshold=0.0),
        LineSpec(metric="latency_ms", operator="<=", threshold=1e6),
        LineSpec(metric="roc_auc", threshold=0.5),
        LineSpec(metric="log_loss", operator="<=", threshold=9.0, split="validation"),
    )
    result = validated(GateSpec(min_accuracy=0.5, min_recall={"digit-7": 0.5}, lines=lines))
    assert [(check.metric, check.split) for check in result.checks] == [
        ("accuracy", "validation"),
        ("recall", "validation"),
        ("roc_auc", "validation"),
        ("log_loss", "validation"),
    ]
    assert result.ruled_out == ()
    part = subset(pipeline.dataset, "validation")
    assert result.checks[0].n == len(part)
    assert result.checks[1].n == int((part.labels == 2).sum())
    sealed.verify(result.path)
    assert json.loads((result.path / validating.FILE).read_text()) == [check.as_json() for check in result.checks]
    assert result.path.name == "validate"


def test_a_line_out_of_reach_is_ruled_out_and_a_warning_never_is(validated: Any) -> None:
    """The log loss of a network on real digits is more than nothing, by its whole interval."""
    impossible = {"metric": "log_loss", "operator": "<=", "threshold": 0.0}
    lines = tuple(LineSpec.model_validate({**impossible, "severity": severity}) for severity in ("fail", "warn"))
    result = validated(GateSpec(lines=lines))
    assert [check.verdict for check in result.checks] == ["REJECTED", "REJECTED"]
    assert result.ruled_out == ("log_loss of overall",)


def test_without_wanted_lines_nothing_is_ruled_out(validated: Any) -> None:
    result = validated(GateSpec())
    assert (result.checks, result.ruled_out) == ((), ())


def test_the_figures_are_those_at_the_rule_that_validation_gives(
    validated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold of nought decides everything to be a seven."""
    everything = Rule(watch=(Watch(label="digit-7", threshold=0.0, metric="recall", wanted=0.8),))
    monkeypatch.setattr(validating, "choose_rule", lambda *_: everything)
    result = validated(GateSpec(min_recall=0.5))
    assert {check.scope: check.value for check in result.checks} == {"digit-0": 0.0, "digit-1": 0.0, "digit-7": 1.0}
    assert result.ruled_out == ("recall of digit-0", "recall of digit-1")


def test_what_cannot_be_shown_on_validation_stops_the_run(validated: Any) -> None:
    """20 sevens can show a recall of 0.86 at most, if every one is found."""
    with pytest.raises(BadInput, match="at least 29 validation pictures of 'digit-7'"):
        validated(GateSpec(), DecisionSpec(watch=(WatchSpec(label="digit-7", recall=0.9),)))


# --- a run that is resumed


@pytest.fixture
def wanted(pipeline: Pipeline, tmp_path: Path) -> dict[str, Any]:
    """Lines met and missed, with and without an interval."""
    lines = (
        LineSpec(metric="log_loss", operator="<=", threshold=0.0),
        LineSpec(metric="roc_auc", threshold=0.5, evidence="point"),
    )
    gate = GateSpec(min_recall=0.5, lines=lines)
    return {
        "checkpoint": pipeline.tuned, "dataset": pipeline.dataset, "run": tmp_path / "run",
        "decision": pipeline.decision, "gate": gate,
    }  # fmt: skip


def test_what_was_validated_is_not_validated_again(wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    fresh = validate(**wanted)
    assert len(fresh.checks) == 5
    assert fresh.ruled_out == ("log_loss of overall",)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in wanted["run"].rglob("*")}
    monkeypatch.setattr(validating, "load_classifier", lambda _: pytest.fail("the network was loaded"))
    assert validate(**wanted) == fresh
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in wanted["run"].rglob("*")} == before


@pytest.mark.parametrize("what", ["checkpoint", "dataset", "decision", "gate"])
def test_a_run_validated_for_something_else_is_refused(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(validating, "_judge_all", lambda *_: ())
    validate(**wanted)
    others = {
        "checkpoint": replace(wanted["checkpoint"], key="other"),
        "dataset": replace(wanted["dataset"], key="other"),
        "decision": DecisionSpec(),
        "gate": GateSpec(),
    }
    with pytest.raises(ArtifactError, match=r"validate: expected key .* resume it with its own, or start a new run"):
        validate(**wanted | {what: others[what]})


def test_an_altered_validation_is_detected(wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    path = validate(**wanted).path / validating.FILE
    path.write_text(path.read_text().replace("REJECTED", "PASSED"))
    with pytest.raises(ArtifactError, match="expected sha256"):
        validate(**wanted)
