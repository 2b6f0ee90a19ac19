"""The file of suspects: what a person decided becomes a manifest, and what makes no sense is said."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from serving.errors import BadInput
from tasks.audit.findings import Finding, Suspect
from tasks.audit.suspects import COLUMNS, read_corrections, write_manifest, write_suspects
from tasks.data.facts import facts
from tasks.data.source import find_pictures
from tests.conftest import Pipeline

FINDINGS = (
    Finding("label_error", "WARN", "t", (Suspect((0,), 0.9, "keep", "digit-1"),)),
    Finding("near_duplicate", "INFO", "t", (Suspect((1, 2), 0.8),)),
)


def edited(pipeline: Pipeline, place: Path, actions: list[str]) -> Path:
    file = place / "suspects.csv"
    write_suspects(file, FINDINGS, facts(pipeline.dataset), pipeline.dataset.classes)
    rows = list(csv.reader(file.open(newline="")))
    for row, action in zip(rows[1:], actions, strict=True):
        row[COLUMNS.index("action")] = action
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return file


def test_what_was_decided_stands_in_the_manifest(pipeline: Pipeline, tmp_path: Path) -> None:
    told, sources = facts(pipeline.dataset), find_pictures(pipeline.data)
    corrections = read_corrections(edited(pipeline, tmp_path, ["relabel", "drop"]))
    assert write_manifest(tmp_path / "corrected.csv", sources, corrections, ()) == len(sources) - 1
    manifest = pipeline.data.model_copy(update={"root": tmp_path / "corrected.csv"})
    now = {source.path: source.label for source in find_pictures(manifest)}
    assert now[told.paths[0]] == "digit-1"
    assert told.paths[2] not in now
    assert {path: source for path, source in now.items() if path not in told.paths[:3]} == {
        source.path: source.label for source in sources if source.path not in told.paths[:3]
    }


def test_nothing_changed_is_the_same_data(pipeline: Pipeline, tmp_path: Path) -> None:
    assert read_corrections(edited(pipeline, tmp_path, ["keep", "keep"])) == {}


def test_what_makes_no_sense_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 2: expected action keep, drop or relabel, found 'delete'"):
        read_corrections(edited(pipeline, tmp_path, ["delete", "keep"]))
    with pytest.raises(BadInput, match="line 3: expected a label in column suggested"):
        read_corrections(edited(pipeline, tmp_path, ["keep", "relabel"]))
    with pytest.raises(BadInput, match="expected a CSV file of suspects"):
        read_corrections(tmp_path / "none.csv")
    corrections = read_corrections(edited(pipeline, tmp_path, ["drop", "keep"]))
    with pytest.raises(BadInput, match="give the DATA that was audited"):
        write_manifest(tmp_path / "m.csv", find_pictures(pipeline.data)[-3:], corrections, ())
