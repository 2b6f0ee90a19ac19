"""The decision rule decides as the contract says, and only an unaltered, well-formed artifact opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import Artifact, Rule, Watch, golden_inputs, read
from serving.errors import ArtifactError
from tests.conftest import Pipeline
from tests.serving.tiny import SIDE, about, make_artifact, reseal

CLASSES = ("a", "b", "c")


def rule(**thresholds: float) -> Rule:
    steps = (Watch(label=label, threshold=t, metric="recall", wanted=0.9) for label, t in thresholds.items())
    return Rule(watch=tuple(steps))


def decided(rule: Rule, *rows: tuple[float, float, float]) -> str:
    labels = rule.decide(np.array(rows, np.float32), CLASSES)
    assert labels.dtype == np.int64
    return "".join(CLASSES[label] for label in labels)


# --- the rule -----------------------------------------------------------------------------------------


def test_without_watched_classes_it_is_argmax() -> None:
    assert decided(Rule(), (0.5, 0.3, 0.2), (0.1, 0.2, 0.7), (0.3, 0.4, 0.3)) == "acb"


def test_a_watched_class_wins_from_its_threshold_on() -> None:
    assert decided(rule(b=0.2), (0.7, 0.25, 0.05), (0.7, 0.15, 0.15)) == "ba"


def test_equality_at_the_threshold_counts() -> None:
    below = float(np.nextafter(np.float32(0.25), np.float32(0)))
    assert decided(rule(b=0.25), (0.7, 0.25, 0.05), (0.7, below, 0.05)) == "ba"


def test_a_threshold_chosen_on_float32_outputs_holds_for_that_very_output() -> None:
    chosen = float(np.float32(0.1))  # a little above 0.1
    assert decided(rule(b=chosen), (0.8, 0.1, 0.1)) == "b"


def test_a_threshold_is_not_rounded_to_float32() -> None:
    """float32(0.7) is below 0.7: it is not `>= 0.7`, neither here nor where thresholds are chosen."""
    assert decided(rule(b=0.7), (0.2, 0.7, 0.1)) == "a"


def test_below_its_threshold_the_likeliest_class_of_all_is_not_decided_if_it_is_watched() -> None:
    assert decided(rule(b=0.9), (0.1, 0.8, 0.1), (0.05, 0.8, 0.15)) == "ac"


def test_the_first_watched_class_that_reaches_its_threshold_wins() -> None:
    first_c = rule(c=0.2, b=0.3)
    assert decided(first_c, (0.1, 0.6, 0.3), (0.1, 0.8, 0.1), (0.8, 0.1, 0.1)) == "cba"
    assert decided(rule(b=0.3, c=0.2), (0.1, 0.6, 0.3)) == "b", "the order is the rule's, not the classes'"


def test_with_every_class_watched_an_unclaimed_picture_gets_plain_argmax() -> None:
    assert decided(rule(a=0.9, b=0.9, c=0.9), (0.2, 0.5, 0.3), (0.91, 0.09, 0.0), (0.2, 0.3, 0.5)) == "bac"


def test_thresholds_of_zero_and_one_work() -> None:
    assert decided(rule(c=0.0), (1.0, 0.0, 0.0)) == "c"
    assert decided(rule(c=1.0), (0.0, 0.001, 0.999), (0.0, 0.0, 1.0)) == "bc"


def test_no_pictures_no_decisions() -> None:
    assert rule(b=0.5).decide(np.zeros((0, 3), np.float32), CLASSES).shape == (0,)


def test_deciding_does_not_change_the_probabilities() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3]], np.float32)
    rule(b=0.9).decide(probabilities, CLASSES)
    assert probabilities.tolist() == np.array([[0.2, 0.5, 0.3]], np.float32).tolist()


def test_the_rule_in_words() -> None:
    assert Rule().text() is None
    words = rule(c=0.2, b=0.3).text()
    assert words == "c if its probability >= 0.2; else b if its probability >= 0.3; else the likeliest other class"


@pytest.mark.parametrize("bad", [{"threshold": 1.1}, {"threshold": -0.1}, {"threshold": float("nan")}, {"wanted": 1.0}])
def test_a_threshold_is_a_probability(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Watch.model_validate({"label": "a", "threshold": 0.5, "metric": "recall", "wanted": 0.9} | bad)


# --- reading ------------------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "artifact", rule=rule_of_colours())


def rule_of_colours() -> Rule:
    return Rule(watch=(Watch(label="blue", threshold=0.25, metric="recall", wanted=0.9),))


def test_the_pipelines_artifact_reads(pipeline: Pipeline) -> None:
    artifact = read(pipeline.certified.artifact)
    assert artifact.classes == ("digit-0", "digit-1", "digit-7")
    assert artifact.model.is_file()
    assert artifact.digest == sealed.sha256_of(artifact.path / artifacts.MANIFEST)
    assert set(artifact.contents.files) == {artifacts.MODEL, artifacts.GOLDEN, artifacts.SPLIT, artifacts.CARD}
    assert artifact.contents.rule == pipeline.exported.rule


def test_it_reads_with_its_own_digest_and_refuses_another(artifact: Artifact) -> None:
    assert read(artifact.path, artifact.digest).contents == artifact.contents
    with pytest.raises(ArtifactError, match="expected artifact digest 000000000000"):
        read(artifact.path, "0" * 64)


@pytest.mark.parametrize("name", [artifacts.MODEL, artifacts.GOLDEN, artifacts.SPLIT, artifacts.CARD])
def test_one_flipped_bit_in_any_file_is_refused(artifact: Artifact, name: str) -> None:
    path = artifact.path / name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ArtifactError, match=name):
        read(artifact.path)


@pytest.mark.parametrize("name", [artifacts.MODEL, artifacts.GOLDEN, artifacts.SPLIT, artifacts.CARD])
def test_a_lost_file_is_refused(artifact: Artifact, name: str) -> None:
    (artifact.path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: .*no such file"):
        read(artifact.path)


def test_a_lost_manifest_is_refused(artifact: Artifact) -> None:
    (artifact.path / artifacts.MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        read(artifact.path)


def test_a_changed_manifest_has_another_digest(artifact: Artifact) -> None:
    changed = reseal(artifact.path, verdict="REJECTED")
    assert changed.contents.verdict == "REJECTED"
    with pytest.raises(ArtifactError, match="it was altered"):
        read(artifact.path, artifact.digest)


@pytest.mark.parametrize("name", [artifacts.MODEL, artifacts.GOLDEN, artifacts.SPLIT, artifacts.CARD])
def test_a_manifest_that_forgets_a_file_is_refused(artifact: Artifact, name: str) -> None:
    manifest = artifact.path / artifacts.MANIFEST
    body = json.loads(manifest.read_text())
    del body["files"][name]
    manifest.write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=f"expected {name} among its files"):
        read(artifact.path)


def test_another_schema_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="expected schema 1, found 2"):
        reseal(artifact.path, schema=2)


def test_a_manifest_that_is_no_json_is_refused(artifact: Artifact) -> None:
    (artifact.path / artifacts.MANIFEST).write_text("{'single': 'quotes'}")
    with pytest.raises(ArtifactError, match="not JSON"):
        read(artifact.path)


WRONG: list[dict[str, Any]] = [
    {"classes": ["red"]},
    {"classes": ["red", "red", "blue"]},
    {"classes": ["red", "green"]},  # the rule watches blue
    {"classes": "red"},
    {"verdict": "FINE"},
    {"temperature": 0},
    {"temperature": "hot"},
    {"preprocessing": {}},
    {"rule": {"watch": [{"label": "blue", "threshold": 2, "metric": "recall", "wanted": 0.9}]}},
    {"rule": {"watch": [{"label": "blue", "threshold": 0.2, "metric": "recall", "wanted": 0.9}] * 2}},
    {"surprise": 1},
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: json.dumps(change)[:40])
def test_values_that_make_no_sense_are_refused(artifact: Artifact, change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="does not read as an artifact"):
        reseal(artifact.path, **change)


@pytest.mark.parametrize("missing", sorted(about("colours")))
def test_every_field_is_needed(tmp_path: Path, missing: str) -> None:
    place = make_artifact(tmp_path / "artifact").path
    body = json.loads((place / artifacts.MANIFEST).read_text())
    del body[missing]
    (place / artifacts.MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="does not read as an artifact"):
        read(place)


def test_golden_inputs_are_the_same_every_time_and_not_all_alike() -> None:
    first = golden_inputs(SIDE)
    assert first.shape == (3, SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert (first == golden_inputs(SIDE)).all()
    assert len({picture.tobytes() for picture in first}) == 3
