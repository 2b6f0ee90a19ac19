"""What the audit said of the pictures, as a section: sentences and counts, no picture and no name of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.report.markup import paragraph
from tasks.report.mistakes import Part
from tasks.report.tables import Table, number


def audited(body: Mapping[str, Any]) -> list[Part]:
    """`body` as of `tasks.audit.audit.audit_text`."""
    if "findings" not in body:
        return [paragraph("These pictures were not audited.")]
    parts: list[Part] = [findings_table(body["findings"])] if body["findings"] else [paragraph("Nothing was found.")]
    return [*parts, *proofs_tables(body["proofs"]), paragraph("`thaw audit DATA --html FILE` shows the pictures.")]


def findings_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """Level, kind, how many, and the sentence."""
    rows = tuple((f["level"], f["kind"].replace("_", " "), str(f["count"] or ""), f["text"]) for f in findings)
    return Table("Findings", ("level", "what", "how many", "found, and what to do"), rows)


def proofs_tables(proofs: Mapping[str, Any]) -> list[Part]:
    """What a model without a single error would show on the test pictures: by class, and by line of the gate."""
    unit = proofs["unit"]
    classes = tuple((c["label"], c["units"], number(c["best_recall"])) for c in proofs["classes"])
    shown: list[Part] = [
        Table(
            f"The most that could be proved, at {proofs['confidence']:.0%} confidence",
            ("class", f"test {unit}", "recall, without an error"),
            classes,
        )
    ]
    if proofs["lines"]:
        rows = tuple(
            (
                line["line"],
                line["units"],
                number(line["best"]),
                "" if line["errors"] is None else str(line["errors"]),
                "yes" if line["provable"] else f"{line['more']:,} more {unit}" if line["more"] else "no",
            )
            for line in proofs["lines"]
        )
        header = ("line", f"test {unit}", "best end", "errors allowed", "can be shown")
        shown.append(Table("What the gate's lines need", header, rows))
    return shown
