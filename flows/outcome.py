"""How a run ends in the orchestrator: a state and artifacts that say what was decided. No pictures in them.

A run that decides against a model has done its work: `Rejected`, `Inconclusive` and `Skipped` are final states of type
COMPLETED, so that neither retries nor "failed" automations take them for a crash; their own events carry their names.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from tasks.evaluation.gate import Check
from tasks.report.charts import training_curves

_NAMES = {"PASSED": "Completed", "REJECTED": "Rejected", "INCONCLUSIVE": "Inconclusive"}


def final_state(result: dict[str, Any]) -> Any:
    """The state of a finished run; its message is the reason with the failing lines, its data the result."""
    name = "Skipped" if result["skipped"] else _NAMES[result["verdict"]]
    return Completed(name=name, message=result["reason"], data=result)


def publish_artifacts(result: Mapping[str, Any]) -> None:
    """Verdict table, confusion matrix and training curves, under keys that keep a history per model name."""
    name = result["name"]
    create_markdown_artifact(verdict_table(result), key=f"{name}-verdict", description=f"The gate's lines for {name}")
    if not result["metrics"]:
        return
    create_markdown_artifact(confusion_table(result), key=f"{name}-confusion", description="Test split, as served")
    png = base64.b64encode(training_curves(result["phases"], kind="png")).decode()
    curves = f"![Loss and accuracy by epoch](data:image/png;base64,{png})"
    create_markdown_artifact(curves, key=f"{name}-curves", description="Training and validation by epoch")


def verdict_table(result: Mapping[str, Any]) -> str:
    """Markdown: the verdict, then one row a line."""
    header = ("line", "value", "interval", "wanted", "n", "verdict", "what next")
    rows = [_row(check) for check in _checks(result)]
    return f"**{result['verdict']}**: {_escaped(result['reason'])}\n\n{_table(header, rows)}"


def confusion_table(result: Mapping[str, Any]) -> str:
    """Markdown: rows are true classes, columns decided ones."""
    classes = list(result["metrics"]["recall"])
    matrix = result["metrics"]["confusion_matrix"]
    return _table(("true / decided", *classes), [(label, *row) for label, row in zip(classes, matrix, strict=True)])


def _checks(result: Mapping[str, Any]) -> list[Check]:
    return [Check(**check) for check in result["checks"]]


def _row(check: Check) -> tuple[object, ...]:
    of = "" if check.scope == "overall" else f" of {check.scope}"
    warning = " (warning only)" if check.severity == "warn" else ""
    ends = "" if check.ci_low is None else f"{check.ci_low:.4g} - {check.ci_high:.4g}"
    value = "not measured" if check.value is None else f"{check.value:.4g}"
    wanted = f"{check.operator} {check.threshold:.4g}"
    line = f"{check.metric}{of}, {check.split}{warning}"
    return line, value, ends, wanted, check.n, check.verdict, check.advice or ""


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: object) -> str:
    """Class names are the user's: they must not break a table or become markup."""
    text = " ".join(str(cell).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;")
