"""`thaw gate` and `thaw verify` on the command line: documents, exit statuses, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.release.release import publish
from tests.conftest import Pipeline
from tests.flows.conftest import settings, thaw


@pytest.fixture
def published(pipeline: Pipeline, home: Path) -> Path:
    publish(pipeline.certified, home, None, "tester", "test")
    return home


def test_gate_replays_the_recorded_verdict(pipeline: Pipeline) -> None:
    ran = thaw("gate", pipeline.certified.evaluation / "evaluation.json", "--json")
    assert (ran.status, ran.document["verdict"], ran.document["same"]) == (0, "PASSED", True)
    assert ran.document["verdict_digest"] == ran.document["recorded"]["verdict_digest"]


def test_gate_with_another_configuration_has_its_exit_status(pipeline: Pipeline, tmp_path: Path) -> None:
    config = tmp_path / "gate.yaml"
    config.write_text("gate:\n  lines:\n  - {metric: accuracy, operator: '<=', threshold: 0.1}\n")
    ran = thaw("gate", pipeline.certified.evaluation, "--config", config)
    assert ran.status == 3
    assert "not the recorded verdict: PASSED" in " ".join(ran.out.split())
    ran = thaw("gate", pipeline.certified.evaluation, *settings("gate.min_recall.digit-9=0.5"), "--json")
    assert ran.status == 2
    assert "digit-9" in ran.document["error"]["message"]


def test_verify_reaches_the_recorded_digest(published: Path, digits_folder: Path) -> None:
    ran = thaw("verify", "digits:1", digits_folder, "--device", "cpu", "--json")
    assert ran.status == 0, ran.err
    assert ran.document["same"] is True
    assert ran.document["version"] == 1
    ran = thaw("verify", "digits:1", digits_folder, "--device", "cpu")
    assert "the same as recorded" in " ".join(ran.out.split())


def test_verify_refuses_what_it_cannot_check(published: Path, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for reference, data, words in (
        ("digits", digits_folder, "expected NAME:VERSION"),
        ("digits:9", digits_folder, "digits:9"),
        ("digits:1", tmp_path, "expected pictures"),
        ("digits:1", digits_folder / "digit-0", "expected pictures"),
    ):
        ran = thaw("verify", reference, data, "--json")
        assert ran.status == 2, reference
        assert words in ran.document["error"]["message"]
