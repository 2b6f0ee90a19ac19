"""A run that is resumed: what it has judged is not judged again, and what a kill left is completed or passed over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.artifact import MODEL
from serving.errors import ArtifactError
from tasks.certification import certify as certifying
from tasks.certification.certify import Candidate, Certified, certify, read_evaluation
from tasks.evaluation import intervals
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.report.spec import ReportSpec
from tests.conftest import Pipeline, certify_again, of_another_run, record, trained
from tests.serving import tiny

Arguments = dict[str, Any]


class JudgedAnew(Exception):
    """With the name of the directory that would be written."""


@pytest.fixture
def not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(place: Path, *_: object) -> None:
        raise JudgedAnew(place.name)

    monkeypatch.setattr(certifying, "_evaluate", judge)


@pytest.fixture
def run(pipeline: Pipeline, tmp_path: Path) -> Path:
    """A copy of what the shared run has certified."""
    for place in (pipeline.certified.evaluation, pipeline.certified.artifact):
        shutil.copytree(place, tmp_path / "run" / place.name)
    return tmp_path / "run"


def kept_in(run: Path, certified: Certified) -> Certified:
    return replace(certified, evaluation=run / certified.evaluation.name, artifact=run / certified.artifact.name)


def state(run: Path) -> dict[Path, tuple[int, int]]:
    """A file written again has another inode or time."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.rglob("*")}


@pytest.mark.usefixtures("not_again")
def test_what_was_certified_is_not_certified_again(pipeline: Pipeline) -> None:
    before = state(pipeline.run)
    assert certify_again(pipeline, pipeline.run) == pipeline.certified
    assert state(pipeline.run) == before


@pytest.mark.usefixtures("not_again")
def test_the_clock_and_the_count_of_decisions_do_not_make_it_another(pipeline: Pipeline, run: Path) -> None:
    """The version that a resumed run had published counts as a decision by then."""
    later = replace(record(), provenance='{"made_at": "later"}', seconds=(("prepare", 9.0),), earlier_decisions=1)
    found = certify(trained(pipeline), None, run, pipeline.decision, pipeline.gate, later, device="cpu")
    assert found == kept_in(run, pipeline.certified)


def other_model(p: Pipeline, a: Arguments, place: Path) -> Arguments:
    copy = Path(shutil.copytree(p.exported.path, place / "export"))
    with (copy / MODEL).open("ab") as file:
        file.write(b"\0")
    return a | {"trained": trained(p, replace(p.exported, path=copy))}


def other_dataset(p: Pipeline, a: Arguments, _: Path) -> Arguments:
    return a | {"trained": replace(trained(p), dataset=replace(p.dataset, key="other"))}


def other_champion(p: Pipeline, a: Arguments, place: Path) -> Arguments:
    theirs = of_another_run(p, place / "theirs")
    return a | {"champion": Candidate(theirs.artifact, theirs.digest, 1, 1)}


@pytest.mark.usefixtures("not_again")
@pytest.mark.parametrize(
    "change",
    [
        lambda p, a, _: a | {"decision": DecisionSpec()},
        lambda p, a, _: a | {"gate": GateSpec()},
        lambda p, a, _: a | {"report": ReportSpec(pictures="none")},
        lambda p, a, _: a | {"record": replace(record(), configuration="{}")},
        other_model,
        other_dataset,
        other_champion,
    ],
)
def test_anything_else_is_certified_under_the_next_number(
    pipeline: Pipeline, run: Path, tmp_path: Path, change: Callable[[Pipeline, Arguments, Path], Arguments]
) -> None:
    same: Arguments = {
        "trained": trained(pipeline), "champion": None, "run": run, "decision": pipeline.decision,
        "gate": pipeline.gate, "record": record(), "device": "cpu",
    }  # fmt: skip
    assert certify(**same) == kept_in(run, pipeline.certified)
    with pytest.raises(JudgedAnew, match="evaluation-2"):
        certify(**change(pipeline, same, tmp_path))


@pytest.mark.usefixtures("not_again")
@pytest.mark.parametrize("lost", ["evaluation-1", "artifact-1"])
def test_a_number_that_was_ever_taken_is_not_given_again(pipeline: Pipeline, run: Path, lost: str) -> None:
    """A lone evaluation, or artifact, of another champion is passed over."""
    shutil.rmtree(run / lost)
    (run / "evaluation-old").mkdir()
    with pytest.raises(JudgedAnew, match="evaluation-2"):
        certify_again(pipeline, run, champion=Candidate(pipeline.certified.artifact, "other", 1, 1))


def test_every_champion_is_met_once(pipeline: Pipeline, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same artifact as champion of a later generation is another one to meet."""
    theirs = of_another_run(pipeline, run.parent / "theirs")
    champion = Candidate(theirs.artifact, theirs.digest, version=1, generation=1)
    with monkeypatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 20)
        fresh = certify_again(pipeline, run, champion=champion)
    assert (fresh.evaluation, fresh.artifact, fresh.generation) == (run / "evaluation-2", run / "artifact-2", 1)
    monkeypatch.setattr(certifying, "_score", lambda *_: pytest.fail("judged again"))
    before = state(run)
    assert certify_again(pipeline, run, champion=champion) == fresh
    assert certify_again(pipeline, run) == kept_in(run, pipeline.certified)
    assert state(run) == before
    with pytest.raises(pytest.fail.Exception, match="judged again"):
        certify_again(pipeline, run, champion=replace(champion, generation=2))


@pytest.mark.usefixtures("not_again")
def test_a_run_that_was_killed_after_promoting_is_not_judged_against_itself(pipeline: Pipeline, run: Path) -> None:
    made = pipeline.certified
    found = certify_again(pipeline, run, champion=Candidate(made.artifact, made.digest, version=1, generation=1))
    assert found == kept_in(run, made)
    assert found.generation == 0, "the champion that it met"


# --- a kill between the two directories ----------------------------------------------------------------


def test_an_evaluation_without_its_artifact_is_completed(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(certifying, "pack", killed)
        certify_again(pipeline, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-1"]
    before = state(tmp_path / "evaluation-1")
    monkeypatch.setattr(certifying, "_evaluate", lambda *_: pytest.fail("judged again"))
    certified = certify_again(pipeline, tmp_path)
    assert certified.artifact == tmp_path / "artifact-1"
    assert certified.verdict == read_evaluation(certified)["verdict"] == "PASSED"
    assert state(tmp_path / "evaluation-1") == before
    assert certify_again(pipeline, tmp_path) == certified


@pytest.mark.usefixtures("not_again")
def test_a_completed_artifact_is_the_one_that_would_have_been(pipeline: Pipeline, run: Path) -> None:
    """The same digest, so what was published of it is found."""
    shutil.rmtree(run / "artifact-1")
    assert certify_again(pipeline, run) == kept_in(run, pipeline.certified)


# --- what was altered ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("not_again")
@pytest.mark.parametrize(
    "name",
    [
        *(f"evaluation-1/{name}" for name in ("evaluation.json", "evidence.npz", "report.html")),
        *(f"artifact-1/{name}" for name in ("model.onnx", "golden.npz", "split.csv", "card.md")),
    ],
)
def test_an_altered_file_is_detected(pipeline: Pipeline, run: Path, name: str) -> None:
    with (run / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=f"{name}: expected sha256"):
        certify_again(pipeline, run)


@pytest.mark.usefixtures("not_again")
@pytest.mark.parametrize("change", [{"verdict": "REJECTED"}, {"temperature": 1.5}, {"provenance": {}}])
def test_an_artifact_that_says_otherwise_than_its_evaluation_is_detected(
    pipeline: Pipeline, run: Path, change: Arguments
) -> None:
    tiny.reseal(run / "artifact-1", **change)
    with pytest.raises(ArtifactError, match=r"expected what evaluation.json of the same number says"):
        certify_again(pipeline, run)


@pytest.mark.usefixtures("not_again")
def test_an_incomplete_artifact_is_not_taken_for_one(pipeline: Pipeline, run: Path) -> None:
    (run / "artifact-1" / "artifact.json").unlink()
    with pytest.raises(ArtifactError, match="remove .*artifact-1 and resume the run"):
        certify_again(pipeline, run)
