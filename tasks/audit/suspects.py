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
from tasks.data.spec import DataSpec

COLUMNS = ("path", "finding", "score", "label", "suggested", "other", "action")
ACTIONS = ("keep", "drop", "relabel")


@dataclass(frozen=True, slots=True)
class Correction:
    """What to do with a picture: drop it, or give it another label (`label` is None for a drop)."""

    path: Path
    label: str | None


def write_suspects(path: Path, findings: Sequence[Finding], facts: Facts, classes: tuple[str, ...]) -> int:
    """Writes the file and returns how many rows it has. Raises BadInput: a file name that is not UTF-8."""
    rows = list(_rows(findings, facts, classes))
    sealed.write_text(path, _csv_text([COLUMNS, *rows]))
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


def write_manifest(path: Path, sources: Sequence[Source], wanted: Mapping[Path, Correction], data: DataSpec) -> int:
    """Writes a manifest of the pictures as corrected, which `thaw retrain` takes as DATA; returns how many are left.

    Without files that `find` refuses: a manifest may not name them. Raises BadInput: a correction of a picture that is
    not there, a file name that is not UTF-8.
    """
    known = {source.path.absolute() for source in sources}
    strange = [place for place in wanted if place not in known]
    if strange:
        raise BadInput(
            f"expected pictures of the data in the suspects' file, found {len(strange)} others, first {strange[0]}: "
            "give the DATA that was audited"
        )
    rows = []
    for source in sources:
        correction = wanted.get(source.path.absolute())
        if source.refused is None and (correction is None or correction.label is not None):
            label = source.label if correction is None else str(correction.label)
            slices = dict(zip(data.slices, source.slices, strict=True))
            rows.append(slices | _given(source, data) | {"path": _text(source.path.absolute()), "label": label})
    first = ("path", "label")
    columns = [*first, *(name for name in dict.fromkeys(name for row in rows for name in row) if name not in first)]
    sealed.write_text(path, _csv_text([columns, *([row.get(name, "") for name in columns] for row in rows)]))
    return len(rows)


def _given(source: Source, data: DataSpec) -> dict[str, str]:
    """The group also in a column named like `data.group_by`, so that the same configuration finds it there."""
    found = {} if source.split is None else {"split": source.split}
    if source.group is not None:
        found |= dict.fromkeys(("group", data.group_by or "group"), source.group)
    return found


def _text(place: Path) -> str:
    """A name as CSV files in UTF-8 can hold it."""
    try:
        return str(place).encode().decode()
    except UnicodeEncodeError:
        raise BadInput(
            f"expected file names in UTF-8, found {str(place)!a}: rename the file",
            shared="expected file names in UTF-8, found another encoding: rename the files",
        ) from None


def _csv_text(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    # all in quotes: a name may hold a carriage return, which alone is not quoted
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _rows(findings: Sequence[Finding], facts: Facts, classes: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    for finding in findings:
        for suspect in finding.suspects:
            rows = suspect.rows
            # of two labels either may be the wrong one
            for *others, row in (rows, rows[::-1]) if finding.kind == "conflict" else (rows,):
                other = _text(facts.paths[others[0]]) if others else ""
                about = (finding.kind, suspect.score, classes[facts.labels[row]], suspect.suggested or "")
                yield _text(facts.paths[row]), *about, other, suspect.action


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
