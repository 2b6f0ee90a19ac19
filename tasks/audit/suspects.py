"""Suspects as a CSV file that a person edits, and the manifest that comes of it.

path, finding, score (0-1, the higher the surer), label, suggested, other (the picture it is a copy of), action. The
action is `keep`, `drop`, or `relabel` to what stands in `suggested`; a picture may stand in several rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving import sealed
from serving.errors import BadInput
from tasks.audit.findings import Finding
from tasks.data.facts import Facts
from tasks.data.source import Source

COLUMNS = ("path", "finding", "score", "label", "suggested", "other", "action")
ACTIONS = ("keep", "drop", "relabel")


@dataclass(frozen=True, slots=True)
class Correction:
    """What to do with a picture: drop it, or give it another label (`label` is None for a drop)."""

    path: Path
    label: str | None


def write_suspects(path: Path, findings: Sequence[Finding], facts: Facts, classes: tuple[str, ...]) -> int:
    """Writes the file and returns how many rows it has. Raises BadInput where it cannot be written."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = list(_rows(findings, facts, classes))
    writer.writerows(rows)
    _write(path, out.getvalue())
    return len(rows)


def read_corrections(path: Path) -> dict[Path, Correction]:
    """What a person decided. Raises BadInput: no such file, an unknown action, a relabel without a label, two minds."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"path", "suggested", "action"} - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"expected a CSV file of suspects at {path}, found otherwise ({error}): correct --apply"
        ) from None
    if missing:
        raise BadInput(f"expected the columns {', '.join(COLUMNS)} in {path}, found no {', '.join(sorted(missing))}")
    found: dict[Path, Correction] = {}
    for number, row in enumerate(rows, start=2):
        correction = _correction(path, number, row)
        if correction is None:
            continue
        if found.setdefault(correction.path, correction) != correction:
            raise BadInput(
                f"{path}, line {number}: expected one decision for a picture, found a second, other one: remove it"
            )
    return found


def write_manifest(
    path: Path, sources: Sequence[Source], wanted: Mapping[Path, Correction], columns: Sequence[str]
) -> int:
    """Writes a manifest of the pictures as corrected, which `thaw retrain` takes as DATA; returns how many are left.

    `columns`: names of the slices. Raises BadInput: a correction of a picture that is not there.
    """
    known = {source.path.absolute() for source in sources}
    strange = [place for place in wanted if place not in known]
    if strange:
        raise BadInput(
            f"expected pictures of the data in the suspects' file, found {len(strange)} others, first {strange[0]}: "
            "give the DATA that was audited"
        )
    has_group = any(source.group is not None for source in sources)
    has_split = any(source.split is not None for source in sources)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("path", "label", *["group"] * has_group, *["split"] * has_split, *columns))
    left = 0
    for source in sources:
        correction = wanted.get(source.path.absolute())
        if correction is not None and correction.label is None:
            continue
        label = source.label if correction is None else correction.label
        given = [source.group or ""] * has_group + [source.split or ""] * has_split
        writer.writerow((source.path.absolute(), label, *given, *source.slices))
        left += 1
    _write(path, out.getvalue())
    return left


def _rows(findings: Sequence[Finding], facts: Facts, classes: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    for finding in findings:
        for suspect in finding.suspects:
            *others, row = suspect.rows
            other = str(facts.paths[others[0]]) if others else ""
            about = (finding.kind, suspect.score, classes[facts.labels[row]], suspect.suggested or "")
            yield facts.paths[row], *about, other, suspect.action


def _correction(path: Path, number: int, row: Mapping[str, str | None]) -> Correction | None:
    action = (row["action"] or "").strip().lower()
    if action not in ACTIONS:
        raise BadInput(f"{path}, line {number}: expected action keep, drop or relabel, found {action!r}: correct it")
    place, label = Path(row["path"] or ""), (row["suggested"] or "").strip()
    if action == "keep":
        return None
    if action == "relabel" and not label:
        raise BadInput(f"{path}, line {number}: expected a label in column suggested to relabel to, found none: add it")
    return Correction(place, label if action == "relabel" else None)


def _write(path: Path, text: str) -> None:
    if not path.absolute().parent.is_dir():
        raise BadInput(f"expected a folder for {path}, found none: create it, or name another file")
    sealed.write_text(path, text)
