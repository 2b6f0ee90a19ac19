"""`thaw audit` as a person types it, and a `thaw retrain` that a planted leak stops."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.model.backbone import describe
from tasks.training.embed import embed
from tests.audit.made import write_plates
from tests.audit.test_audit import MODEL, add, write_given
from tests.flows.conftest import settings, thaw

SMALL = settings("model.image_size=64", "runtime.device=cpu")


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    manifest = write_given(tmp_path)
    copy = tmp_path / "mirrored.png"
    ImageOps.mirror(Image.open(tmp_path / "plates" / "c0" / "000.png")).save(copy)
    add(manifest, copy, "c0", "test")
    return manifest


def test_a_leak_is_shown_corrected_and_gone(leaking: Path, tmp_path: Path, home: Path) -> None:
    page, listed, fixed = tmp_path / "audit.html", tmp_path / "suspects.csv", tmp_path / "fixed.csv"
    found = thaw("audit", leaking, "--name", "plates", "--json", "--html", page, "--suspects", listed, *SMALL)
    assert found.status == 3
    assert found.document["blocked"]
    (leak,) = (f for f in found.document["findings"] if f["kind"] == "leakage")
    assert leak["level"] == "BLOCK"
    assert {Path(path).name for path in leak["suspects"][0]["paths"]} == {"mirrored.png", "000.png"}
    html = page.read_text()
    assert "mirrored.png" in html
    assert "data:image/jpeg" in html
    assert not re.search(r"https?://|<script", html)
    with listed.open(newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["finding"] == "leakage")
    assert row["action"] == "drop"
    assert thaw("audit", leaking, "--name", "plates", "--apply", listed, "--out", fixed).status == 0
    assert not (home / "datasets").exists(), "an audit fixes no split"
    again = thaw("audit", fixed, "--name", "plates", "--json", *SMALL)
    assert again.status == 0
    assert again.document["pictures"] == found.document["pictures"] - 1


def test_copies_that_prepare_refuses_are_still_shown(tmp_path: Path, home: Path) -> None:
    manifest = write_given(tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes((tmp_path / "plates" / "c0" / "000.png").read_bytes())  # 000 is in train
    add(manifest, copy, "c0", "test")
    assert thaw("retrain", manifest, "--name", "plates", *SMALL).status == 2
    page = tmp_path / "audit.html"
    found = thaw("audit", manifest, "--json", "--html", page, *SMALL, *settings("report.pictures=none"))
    assert found.status == 3
    refused, shown = (f for f in found.document["findings"] if f["level"] == "BLOCK")
    assert (refused["kind"], shown["kind"], len(shown["suspects"])) == ("leakage", "leakage", 1)
    assert [one["units"] for one in found.document["provable"]["classes"]] == [9, 8], "of the test split that was given"
    assert "<dd>test and train</dd>" in page.read_text()
    assert "copy.png" not in page.read_text()
    assert "data:image" not in page.read_text()


def test_what_a_retrain_refuses_is_a_finding_even_where_no_picture_is_a_copy(tmp_path: Path, home: Path) -> None:
    rows = [row.split(",") for row in write_given(tmp_path).read_text().splitlines()]
    grouped = tmp_path / "grouped.csv"
    with grouped.open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "group"], *([*row, f"g{i // 4}"] for i, row in enumerate(rows[1:]))])
    found = thaw("audit", grouped, "--json", *SMALL)
    assert found.status == 3
    (torn,) = (f for f in found.document["findings"] if f["level"] == "BLOCK")
    assert (torn["kind"], torn["suspects"]) == ("leakage", [])
    assert "expected each group in one split only, found 12" in torn["text"]
    assert found.document["provable"]["unit"] == "groups"
    assert "1 finding would stop a retrain" in thaw("audit", grouped, *SMALL).out


def test_a_retrain_uses_the_features_again(tmp_path: Path, home: Path) -> None:
    data = DataSpec(root=write_plates(tmp_path / "plates"))
    assert thaw("audit", data.root, *SMALL).status == 0
    dataset = prepare("plates", home, data, describe(MODEL))
    assert embed(dataset, home, MODEL, describe(MODEL), seed=0).reused
    assert list(home.glob(".tmp-*")) == []
    assert thaw("audit", data.root, *SMALL).status == 0, "of what a run has prepared"


def test_no_file_of_a_person_is_written_over(leaking: Path, tmp_path: Path, home: Path) -> None:
    """And it is said before any work."""
    before, suspects = leaking.read_text(), tmp_path / "suspects.csv"
    suspects.write_text("path,suggested,action\n")
    for place in (leaking, tmp_path, tmp_path / "none" / "new"):
        for options in (("--html", place), ("--suspects", place), ("--apply", suspects, "--out", place)):
            refused = thaw("audit", leaking, *options, *SMALL)
            assert refused.status == 2
            assert str(options[-2]) in refused.err
    twice = thaw("audit", leaking, "--html", tmp_path / "new", "--suspects", tmp_path / "new", *SMALL)
    assert (twice.status, leaking.read_text(), list(home.glob("features/*"))) == (2, before, [])


def test_a_planted_leak_stops_a_retrain_before_training(leaking: Path, home: Path) -> None:
    stopped = thaw("retrain", leaking, "--name", "plates", "--json", *SMALL)
    assert stopped.status == 2
    message = stopped.document["error"]["message"]
    assert "found 1 pair of pictures in two of those you gave" in message
    assert "mirrored.png" in message, "a person at the command line may read it"
    assert not list((home / "runs").glob("*/train_head"))


def test_apply_wants_a_place_to_write_to(leaking: Path) -> None:
    assert thaw("audit", leaking, "--apply", "suspects.csv").status == 2
