"""`thaw gate`: the kept evidence gives the recorded verdict again, another gate another one, altered evidence none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import ArtifactError, BadInput
from tasks.certification.certify import read_evaluation
from tasks.certification.replay import read_kept, replay
from tasks.evaluation.evidence import EVALUATION, FILE, load, save
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec
from tests.conftest import DECISION, GATE, Pipeline


def test_the_kept_evidence_gives_the_recorded_verdict(pipeline: Pipeline) -> None:
    kept = read_kept(pipeline.certified.evaluation)
    found = replay(pipeline.certified.evaluation, DECISION, GATE, "fp32")
    assert found.judgement.digest == kept["verdict_digest"]
    assert [check.as_json() for check in found.judgement.checks] == kept["checks"]
    assert found.rule == pipeline.exported.rule


def test_the_file_may_be_named_itself(pipeline: Pipeline) -> None:
    path = pipeline.certified.evaluation / EVALUATION
    assert read_kept(path) == read_evaluation(pipeline.certified)
    assert replay(path, DECISION, GATE, "fp32").judgement.verdict == "PASSED"


def test_another_gate_gives_what_would_have_been(pipeline: Pipeline) -> None:
    strict = replay(pipeline.certified.evaluation, DECISION, GateSpec(min_recall=0.999), "fp32")
    assert strict.judgement.verdict in ("REJECTED", "INCONCLUSIVE")
    assert strict.judgement.digest != read_kept(pipeline.certified.evaluation)["verdict_digest"]


def test_another_operating_point_is_chosen_on_the_kept_validation_outputs(pipeline: Pipeline) -> None:
    less = DecisionSpec(watch=(WatchSpec(label="digit-7", recall=0.5),))
    found = replay(pipeline.certified.evaluation, less, GATE, "fp32")
    assert found.rule.watch[0].threshold > pipeline.exported.rule.watch[0].threshold
    with pytest.raises(BadInput, match="validation pictures of 'digit-7' to show a recall"):
        impossible = DecisionSpec(watch=(WatchSpec(label="digit-7", recall=0.99),))
        replay(pipeline.certified.evaluation, impossible, GATE, "fp32")


@pytest.mark.parametrize("file", [EVALUATION, FILE])
def test_altered_evidence_is_refused(pipeline: Pipeline, tmp_path: Path, file: str) -> None:
    copy = Path(shutil.copytree(pipeline.certified.evaluation, tmp_path / "copy"))
    with (copy / file).open("ab") as target:
        target.write(b" ")
    with pytest.raises(ArtifactError, match=f"{file}: expected sha256"):
        read_kept(copy)


def test_no_evaluation_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name one of runs/<run-id>/evaluation-<n>/"):
        read_kept(tmp_path)


def test_what_is_kept_names_no_file_and_holds_no_pickle(pipeline: Pipeline) -> None:
    place = pipeline.certified.evaluation
    assert ".png" not in (place / EVALUATION).read_text()
    assert b".png" not in (place / FILE).read_bytes()
    assert len(load(place).test) == 60
    assert json.loads((place / EVALUATION).read_text())["verdict"] == "PASSED"


def test_groups_are_what_the_threshold_is_chosen_on(pipeline: Pipeline, tmp_path: Path) -> None:
    """The same pictures, each class of one patient."""
    evidence = load(pipeline.certified.evaluation)
    one = {split: replace(s, units=tuple(f"{label}" for label in s.truth)) for split, s in evidence.samples.items()}
    save(replace(evidence, grouped=True, samples=one), tmp_path)
    with pytest.raises(BadInput, match="validation groups of .* found 1 with"):
        replay(tmp_path, DECISION, GATE, "fp32")
