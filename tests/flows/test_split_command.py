"""`thaw split`: what it says of the held-out pictures, and drawing fresh ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flows.begun import keep_parameters
from flows.parameters import Parameters
from serving.ledger import opened
from tasks.certification.certify import WORN_AFTER
from tasks.data.split import Place, write_table
from tasks.release.release import decisions_made
from tasks.release.unchanged import RESULT
from tests.flows.conftest import NAME, publish, thaw


@pytest.fixture
def table(home: Path, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three versions of a model whose six pictures are divided."""
    monkeypatch.setenv("THAW_HOME", str(home))
    publish(home, 3)
    place = home / "datasets" / NAME / "split.csv"
    splits = ("train", "train", "train", "validation", "test", "test")
    write_table(place, {f"{i}" * 64: Place(f"unit {i}", split) for i, split in enumerate(splits)})
    return place


def test_it_says_how_the_pictures_are_divided(table: Path) -> None:
    body = thaw("split", NAME, "--json").document
    assert body["pictures"] == {"train": 3, "validation": 1, "test": 2}
    assert (body["decisions"], body["worn"], body["draw"], body["table"]) == (3, False, 0, str(table))
    assert "3 train, 1 validation, 2 test" in thaw("split", NAME).out


def test_a_fresh_set_is_on_record_and_the_counter_starts_again(table: Path, home: Path) -> None:
    text = table.read_text()
    ran = thaw("split", NAME, "--fresh", "--reason", "worn by the camera's tuning", "--json")
    assert ran.status == 0
    body = ran.document
    assert (body["decisions"], body["worn"], body["draw"]) == (0, False, 1)
    assert "A new comparison history starts" in body["meaning"]
    assert f"thaw promote {NAME}:VERSION --override REASON" in body["meaning"]
    assert Path(body["archived"]).read_text() == text
    assert not table.exists()
    with opened(home, create=False) as ledger:
        event = ledger.history(NAME)[-1]
    assert (event.kind, event.version, event.why) == ("draw", 3, "worn by the camera's tuning")
    assert event.who
    assert decisions_made(NAME, home, None) == 0
    publish(home, 2)
    assert decisions_made(NAME, home, None) == 2
    assert "draw" in thaw("show", NAME).out


def test_in_words(table: Path) -> None:
    out = thaw("split", NAME, "--fresh", "--reason", "worn").out
    assert "A new comparison history starts" in out
    assert f"thaw promote {NAME}:VERSION --override REASON" in out


def test_it_is_worn_past_the_stated_number(table: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.certification.certify.WORN_AFTER", 2)
    assert thaw("split", NAME, "--json").document["worn"]
    assert "(worn)" in thaw("split", NAME).out
    assert WORN_AFTER == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NAME, "--fresh"), "expected a reason with --fresh"),
        ((NAME, "--fresh", "--reason", " "), "expected a reason with --fresh"),
        ((f"{NAME}:2", "--fresh", "--reason", "x"), "the split belongs to all versions"),
        (("nobody", "--fresh", "--reason", "x"), f"expected the name of a model, found 'nobody': known are {NAME}"),
        (("typo",), f"found 'typo': known are {NAME}"),
        ((NAME, "--reason", "x"), "expected --fresh with --reason"),
    ],
)
def test_what_is_refused_changes_nothing(table: Path, arguments: tuple[str, ...], message: str) -> None:
    text = table.read_text()
    ran = thaw("split", *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert table.read_text() == text


def test_twice_in_a_row_is_refused(table: Path) -> None:
    assert thaw("split", NAME, "--fresh", "--reason", "worn").status == 0
    again = thaw("split", NAME, "--fresh", "--reason", "worn")
    assert again.status == 2
    assert "fresh already" in again.err


def test_splits_that_the_user_gave_are_not_made_fresh_by_asking(table: Path, home: Path, tmp_path: Path) -> None:
    """The same test pictures would decide again, with their count at zero."""
    root = tmp_path / "given"
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            (root / split / label / "1.png").write_text(split + label)
    keep_parameters(home / "runs" / "1", Parameters.model_validate({"name": NAME, "data": {"root": root}}))
    (home / "runs" / "1" / RESULT).write_text("{}")
    held_out = {hashlib.sha256(f"test{label}".encode()).hexdigest(): Place("unit", "test") for label in "ab"}
    write_table(table, held_out)
    ran = thaw("split", NAME, "--fresh", "--reason", "worn")
    assert ran.status == 2
    assert "expected other test pictures after a fresh held-out set was asked for, found 2 held out before" in ran.err
    assert table.exists()
    for label in "ab":
        (root / "test" / label / "1.png").write_text(f"another {label}")
    assert thaw("split", NAME, "--fresh", "--reason", "worn").status == 0
