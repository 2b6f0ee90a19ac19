"""What a person sees in the orchestrator while a run goes on, and after it: tables and curves, no pictures, no names
of pictures. Keys keep a history per model name.

They are views of what stands on disk: one that cannot be delivered (the server restarts) is logged and left out.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from serving import sealed
from tasks.audit.audit import Audited, read_audit
from tasks.data.dataset import Dataset
from tasks.data.source import SPLITS
from tasks.evaluation.gate import Check
from tasks.model.classifier import Checkpoint, manifest_of
from tasks.report.charts import training_curves

logger = logging.getLogger(__name__)
_PAUSES = (1.0, 4.0, 10.0)  # seconds before each further try: a server takes about 15 to come back


def show_data(name: str, dataset: Dataset) -> None:
    """Pictures by class and split, and what was left out."""
    about = sealed.about(dataset.path) or {}
    counts: Mapping[str, Mapping[str, int]] = about.get("counts", {})
    rows = [(label, *(counts.get(split, {}).get(label, 0) for split in SPLITS)) for label in dataset.classes]
    totals = ("all", *(sum(counts.get(split, {}).values()) for split in SPLITS))
    out = f"{len(about.get('unreadable', ()))} unreadable, {len(about.get('bridges', ()))} quarantined as bridges"
    text = f"{_table(('class', *SPLITS), [*rows, totals])}\n\n{out}; prepared at {dataset.image_size} pixels"
    _deliver(create_markdown_artifact, markdown=text, key=f"{name}-data", description=f"The pictures of {name}")


def show_audit(name: str, audited: Audited) -> None:
    """What was found in the pictures that stops no run, the gravest first."""
    found = read_audit(audited)
    rows = [(one.level, one.kind, one.text, len(one.suspects)) for one in found.findings]
    table = _table(("level", "finding", "what, and what to do", "suspects"), rows) if rows else "Nothing was found."
    text = f"{found.pictures:,} pictures looked at.\n\n{table}"
    _deliver(create_markdown_artifact, markdown=text, key=f"{name}-audit", description="What the audit found")


def show_curves(name: str, *checkpoints: Checkpoint) -> None:
    """Loss and accuracy by epoch, training and validation."""
    phases = {checkpoint.phase: manifest_of(checkpoint) for checkpoint in checkpoints}
    png = base64.b64encode(training_curves(phases, kind="png")).decode()
    text = f"![Loss and accuracy by epoch](data:image/png;base64,{png})"
    _deliver(create_markdown_artifact, markdown=text, key=f"{name}-curves", description="By epoch")


def show_verdict(result: Mapping[str, Any]) -> None:
    """The gate's lines, the confusion matrix, and where the report lies."""
    name = result["name"]
    _deliver(
        create_markdown_artifact, markdown=verdict_table(result), key=f"{name}-verdict", description="The gate's lines"
    )
    if result["metrics"]:
        text = confusion_table(result)
        _deliver(create_markdown_artifact, markdown=text, key=f"{name}-confusion", description="Test split, as served")
    if result["report"]:
        link, text = Path(result["report"]).as_uri(), f"report of run {result['run_id']}"
        about = f"On the worker's machine: {result['report']}"
        _deliver(create_link_artifact, link=link, link_text=text, key=f"{name}-report", description=about)


def verdict_table(result: Mapping[str, Any]) -> str:
    """Markdown: the verdict, then one row a line."""
    header = ("line", "verdict", "value", "wanted", "interval", "n", "what next")
    rows = [_row(Check(**check)) for check in result["checks"]]
    return f"**{result['verdict']}**: {_escaped(result['reason'])}\n\n{_table(header, rows)}"


def confusion_table(result: Mapping[str, Any]) -> str:
    """Markdown: rows are true classes, columns decided ones."""
    classes = list(result["metrics"]["recall"])
    matrix = result["metrics"]["confusion_matrix"]
    return _table(("true / decided", *classes), [(label, *row) for label, row in zip(classes, matrix, strict=True)])


def _deliver(create: Callable[..., Any], **content: Any) -> None:
    for pause in (*_PAUSES, None):
        try:
            create(**content)
        except (httpx.HTTPError, OSError) as error:
            if pause is None:
                logger.warning("artifact %s could not be delivered: %s", content["key"], type(error).__name__)
            else:
                time.sleep(pause)
        else:
            return


def _row(check: Check) -> tuple[object, ...]:
    of = "" if check.scope == "overall" else f" of {check.scope}"
    warning = " (warning only)" if check.severity == "warn" else ""
    ends = "" if check.ci_low is None else f"{check.ci_low:.4g} - {check.ci_high:.4g}"
    value = "not measured" if check.value is None else f"{check.value:.4g}"
    wanted = f"{check.operator} {check.threshold:.4g}"
    line = f"{check.metric}{of}, {check.split}{warning}"
    return line, check.verdict, value, wanted, ends, check.n, check.advice or ""


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: object) -> str:
    """Class names are the user's: they must not break a table or become markup."""
    text = " ".join(str(cell).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;")
