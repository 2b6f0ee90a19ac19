"""What the real steps hand over is what the report reads, and no file name travels with the artifact."""

from __future__ import annotations

import json

from tasks.data.dataset import subset
from tests.conftest import Pipeline
from tests.report.test_page import SECTIONS, Reader


def test_certify_writes_the_report_beside_its_evaluation(pipeline: Pipeline) -> None:
    page = Reader(pipeline.certified.report.read_text(encoding="utf-8"))
    evaluation = json.loads((pipeline.certified.evaluation / "evaluation.json").read_text())
    assert page.said("h2") == SECTIONS
    assert evaluation["verdict"] in page.said("p")
    assert "Decision rule: " + evaluation["rule"] + "." in page.said("p")


def test_the_card_of_the_artifact_names_no_file(pipeline: Pipeline) -> None:
    card = (pipeline.certified.artifact / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# digits\n")
    test = subset(pipeline.dataset, "test")
    assert not [path for path in test.paths if path.name in card or str(path.parent) in card]
    assert str(pipeline.home) not in card
