"""The file of suspects: what a person decided becomes a manifest, and what makes no sense is said."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import BadInput
from tasks.audit.findings import Finding, Suspect
from tasks.audit.suspects import COLUMNS, read_corrections, write_manifest, write_suspects
from tasks.data.facts import facts
from tasks.data.listing import Source
from tasks.data.source import find_pictures
from tasks.data.spec import DataSpec
from tests.audit.made import write_plates
from tests.audit.test_judging import facts_of
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
    assert write_manifest(tmp_path / "corrected.csv", sources, corrections, pipeline.data) == len(sources) - 1
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
        write_manifest(tmp_path / "m.csv", find_pictures(pipeline.data)[-3:], corrections, pipeline.data)


def test_either_of_two_pictures_under_two_labels_may_be_the_wrong_one(tmp_path: Path) -> None:
    file = tmp_path / "suspects.csv"
    write_suspects(file, [Finding("conflict", "BLOCK", "t", (Suspect((3, 2), 1.0),))], facts_of(4), ("a", "b"))
    with file.open(newline="") as opened:
        rows = [(row["path"], row["label"], row["other"]) for row in csv.DictReader(opened)]
    assert rows == [("2.png", "a", "3.png"), ("3.png", "b", "2.png")]


def test_any_name_in_utf8_comes_back_and_another_is_refused_without_a_trace(tmp_path: Path) -> None:
    place = tmp_path / 'a\rb "c",\nd.png'
    place.touch()
    told, found = facts_of(2), [Finding("dark", "WARN", "t", (Suspect((0,), 0.5, "drop"),))]
    write_suspects(tmp_path / "s.csv", found, replace(told, paths=(place, told.paths[1])), ("a", "b"))
    assert list(read_corrections(tmp_path / "s.csv")) == [place]
    other = tmp_path / "other.png"
    other.touch()
    sources, data = [Source(str(p), p.name, p.stem[0], None, None) for p in (place, other)], DataSpec(root=tmp_path)
    write_manifest(tmp_path / "m.csv", sources, {}, data)
    assert {source.path for source in find_pictures(DataSpec(root=tmp_path / "m.csv"))} == {place, other}

    there, strange = sorted(tmp_path.iterdir()), Path("/caf\udce9.png")
    with pytest.raises(BadInput, match=r"names in UTF-8, found '/caf\\udce9.png': rename"):
        write_suspects(tmp_path / "t.csv", found, replace(told, paths=(strange, told.paths[1])), ("a", "b"))
    with pytest.raises(BadInput, match="names in UTF-8"):
        write_manifest(tmp_path / "t.csv", [Source(str(strange), "c/x", "c", None, None)], {}, data)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("group_by", ["module", r"(\d)\.png", "group"])
def test_the_manifest_fits_the_same_configuration_and_none(group_by: str, tmp_path: Path) -> None:
    """And leaves out what a folder may hold and a manifest may not."""
    root = write_plates(tmp_path / "2024" / "plates", each=4)
    (root / "c0" / "gone.png").symlink_to(tmp_path / "nothing.png")
    if not group_by.startswith("("):
        manifest = tmp_path / "given.csv"
        rows = [(path, path.parent.name, path.stem[-1]) for path in sorted(root.rglob("00*.png"))]
        with manifest.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", group_by), *rows])
        root = manifest
    slices = ("module",) if group_by == "module" else ()
    data = DataSpec(root=root, group_by=group_by if root.is_dir() or slices else None, slices=slices)
    if root.is_dir():
        (root / "c0" / "gone.png").rename(root / "c0" / "gone0.png")  # a name in which the group is found
    fixed = tmp_path / "fixed.csv"
    assert write_manifest(fixed, find_pictures(data), {}, data) == 8
    for again in (data.model_copy(update={"root": fixed}), DataSpec(root=fixed)):
        found = find_pictures(again)
        assert [source.group for source in found] == [source.path.stem[-1] for source in found]
