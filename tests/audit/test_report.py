"""What the audit said stands in the run's report, without names; and a run says it in the same words."""

from __future__ import annotations

import json

from tasks.audit.audit import audit_text, examine
from tasks.audit.spec import AuditSpec
from tasks.data.facts import facts
from tasks.evaluation.spec import GateSpec
from tasks.report.audited import audited as section
from tasks.report.tables import Table
from tests.conftest import Pipeline


def test_the_section_says_what_was_found_and_what_can_be_proved(pipeline: Pipeline) -> None:
    gate = GateSpec(min_recall=0.99)
    found = examine(pipeline.dataset, pipeline.features, pipeline.home, pipeline.data, AuditSpec(), gate)
    body = json.loads(audit_text(found))
    assert {finding["kind"] for finding in body["findings"]} >= {"unprovable"}
    assert not any(path.name in json.dumps(body) for path in facts(pipeline.dataset).paths)
    findings, classes, lines, _ = section(body)
    assert isinstance(findings, Table)
    assert isinstance(classes, Table)
    assert isinstance(lines, Table)
    assert [row[:2] for row in classes.rows] == [("digit-0", 20), ("digit-1", 20), ("digit-7", 20)]
    assert {row[0] for row in lines.rows} == {f"recall of digit-{d} >= 0.99" for d in (0, 1, 7)}
    assert all("more pictures" in str(row[-1]) for row in lines.rows)


def test_a_run_that_was_not_audited_says_so() -> None:
    (said,) = section({})
    assert "not audited" in str(said)
