"""publish and promote on real artifacts, a real ledger and the real model store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import BadInput
from serving.ledger import opened
from tasks.certification.certify import Candidate, Certified, read_evaluation
from tasks.release.release import find_champion, promote, publish
from tasks.release.spec import ReleaseSpec
from tasks.release.unchanged import RESULT, find_ended, find_unchanged
from tests.conftest import Pipeline, certify_again, of_another_run

AUTO = ReleaseSpec()


def release(certified: Certified, home: Path, spec: ReleaseSpec = AUTO) -> tuple[int, bool, bool, str]:
    published = publish(certified, home, None, "tester", "test")
    result = promote(published, certified, home, None, spec, "tester", "test")
    return published.version, result.promoted, result.stale, result.reason


def another(pipeline: Pipeline, home: Path) -> Certified:
    """The same model from another run, certified against the champion that stands in this home now."""
    champion, number = find_champion("digits", home, None), len(list(home.glob("run-*")))
    made = of_another_run(pipeline, home / f"run-{number}")
    return replace(made, generation=champion.generation if champion else 0)


def test_a_passed_version_becomes_champion(pipeline: Pipeline, home: Path) -> None:
    assert pipeline.certified.verdict == "PASSED"
    assert find_champion("digits", home, None) is None
    assert release(pipeline.certified, home)[:3] == (1, True, False)
    champion = find_champion("digits", home, None)
    assert champion is not None
    assert (champion.version, champion.generation, champion.digest) == (1, 1, pipeline.certified.digest)


@pytest.mark.parametrize("verdict", ["REJECTED", "INCONCLUSIVE"])
def test_what_did_not_pass_is_published_and_changes_nothing(pipeline: Pipeline, home: Path, verdict: str) -> None:
    release(pipeline.certified, home)
    version, promoted, stale, reason = release(replace(another(pipeline, home), verdict=verdict), home)  # type: ignore[arg-type]
    assert (version, promoted, stale) == (2, False, False)
    assert verdict in reason
    champion = find_champion("digits", home, None)
    assert champion is not None and champion.version == 1


@pytest.mark.parametrize("mode", ["manual", "never"])
def test_without_auto_it_is_only_published(pipeline: Pipeline, home: Path, mode: str) -> None:
    version, promoted, _, reason = release(pipeline.certified, home, ReleaseSpec.model_validate({"promote": mode}))
    assert (version, promoted) == (1, False)
    assert "thaw promote digits:1" in reason
    assert find_champion("digits", home, None) is None


def test_another_champion_meanwhile_makes_the_certificate_stale(pipeline: Pipeline, home: Path) -> None:
    release(pipeline.certified, home)
    version, promoted, stale, reason = release(replace(another(pipeline, home), generation=0), home)
    assert (version, promoted, stale) == (2, False, True)
    assert "certify again" in reason


def test_a_hold_stops_automatic_promotion_only(pipeline: Pipeline, home: Path) -> None:
    release(pipeline.certified, home)
    release(another(pipeline, home), home)
    with opened(home) as ledger:
        ledger.rollback("digits", who="tester", why="bad in the field")
    version, promoted, stale, reason = release(another(pipeline, home), home)
    assert (version, promoted, stale) == (3, False, False)
    assert "--release-hold" in reason
    with opened(home) as ledger:
        champion = ledger.promote("digits", 3, who="tester", why="understood", release_hold=True)
    assert (champion.version, champion.hold) == (3, False)


def test_the_champion_is_scored_again_on_the_same_pictures(pipeline: Pipeline, home: Path, tmp_path: Path) -> None:
    """Against itself the paired difference is exactly zero, and both comparison lines are there."""
    release(pipeline.certified, home)
    champion = find_champion("digits", home, None)
    assert isinstance(champion, Candidate)
    certified = certify_again(pipeline, tmp_path / "run", champion=champion)
    evaluation = read_evaluation(certified)
    lines = {c["metric"]: c for c in evaluation["checks"] if c["metric"].endswith("_vs_champion")}
    assert set(lines) == {"recall_vs_champion", "accuracy_vs_champion"}
    assert all(line["value"] == 0 and line["verdict"] == "PASSED" for line in lines.values())
    assert lines["recall_vs_champion"]["scope"] == "digit-7"
    assert certified.generation == 1


def test_an_altered_artifact_is_not_published(pipeline: Pipeline, home: Path) -> None:
    with pytest.raises(Exception, match="expected artifact digest"):
        publish(replace(pipeline.certified, digest="0" * 64), home, None, "tester", "test")
    with opened(home) as ledger:
        assert ledger.versions("digits") == ()


def test_unchanged_inputs_are_found_while_their_champion_stands(pipeline: Pipeline, home: Path) -> None:
    runs = home / "runs"

    def look(inputs: str = "i", now: str = "r2") -> dict[str, object] | None:
        return find_unchanged("digits", inputs, runs / now, home, None)

    (runs / "r1").mkdir(parents=True)
    result = {"name": "digits", "inputs": "i", "version": 1, "promoted": True, "champion": {"generation": 0}}
    (runs / "r1" / RESULT).write_text(json.dumps(result))
    assert look() is None  # nothing of it was published
    release(pipeline.certified, home)
    found = look()
    assert found is not None and found["promoted"] is True
    assert look("other") is None
    assert look(now="r1") is None  # a run that goes on is not skipped for its own sake
    release(another(pipeline, home), home)
    assert look() is None  # another champion: the comparison must be made again


def test_a_run_ended_when_its_result_waits_for_nobody_and_is_published(pipeline: Pipeline, home: Path) -> None:
    run = home / "runs" / "1"

    def ended(**changes: object) -> dict[str, object] | None:
        (run / RESULT).write_text(json.dumps({"name": "digits", "version": 1, "waiting": False} | changes))
        return find_ended("digits", run, home, None)

    assert find_ended("digits", run, home, None) is None, "not begun"
    run.mkdir(parents=True)
    assert find_ended("digits", run, home, None) is None, "cut short"
    assert ended() is None, "its version is not in this ledger"
    release(pipeline.certified, home)
    assert ended() == {"name": "digits", "version": 1, "waiting": False, "promoted": True}
    assert ended(waiting=True) is None
    release(another(pipeline, home), home)
    assert ended(promoted=True) == {"name": "digits", "version": 1, "waiting": False, "promoted": False}
    stopped = ended(version=None, promoted=False)
    assert stopped is not None and stopped["promoted"] is False


# --- the same run once more, as when it is resumed --------------------------------------------------------


def test_a_version_is_published_once(pipeline: Pipeline, home: Path) -> None:
    first = publish(pipeline.certified, home, None, "tester", "before the kill")
    assert publish(pipeline.certified, home, None, "tester", "resumed") == first
    with opened(home) as ledger:
        assert [entry.version for entry in ledger.versions("digits")] == [1]
        assert [(event.kind, event.why) for event in ledger.history("digits")] == [("publish", "before the kill")]


def test_a_version_is_promoted_once(pipeline: Pipeline, home: Path) -> None:
    """The champion that it met is gone, replaced by itself: that is no conflict."""
    first = release(pipeline.certified, home)
    assert release(pipeline.certified, home) == first == (1, True, False, "digits:1 is the champion")
    with opened(home) as ledger:
        assert [event.kind for event in ledger.history("digits")] == ["publish", "promote"]
        assert ledger.champion("digits").generation == 1


def test_a_version_that_was_replaced_meanwhile_is_stale_once_more(pipeline: Pipeline, home: Path) -> None:
    release(pipeline.certified, home)
    release(another(pipeline, home), home)
    version, promoted, stale, reason = release(pipeline.certified, home)
    assert (version, promoted, stale) == (1, False, True)
    assert "certify again" in reason


@pytest.mark.parametrize("mode", ["manual", "never"])
def test_a_version_that_a_person_promoted_is_said_to_be_champion(pipeline: Pipeline, home: Path, mode: str) -> None:
    spec = ReleaseSpec.model_validate({"promote": mode})
    release(pipeline.certified, home, spec)
    with opened(home) as ledger:
        ledger.promote("digits", 1, who="a person", why="approved")
    assert release(pipeline.certified, home, spec) == (1, True, False, "digits:1 is the champion")


def test_a_champion_that_a_rollback_went_back_to_is_still_champion(pipeline: Pipeline, home: Path) -> None:
    release(pipeline.certified, home)
    release(another(pipeline, home), home)
    with opened(home) as ledger:
        ledger.rollback("digits", who="tester", why="bad in the field")
    assert release(pipeline.certified, home)[:3] == (1, True, False)


def test_promoting_what_was_never_published_is_an_error(home: Path) -> None:
    with opened(home) as ledger, pytest.raises(BadInput, match="found no digits:7"):
        ledger.promote("digits", 7, who="tester", why="")
