"""A fresh held-out set: none of its pictures was held out before, and the old table is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serving.errors import BadInput
from tasks.data.dataset import subset
from tasks.data.draws import archive_table, current_draw
from tasks.data.prepare import find_prepared
from tasks.data.source import SPLITS
from tasks.data.split import Draw, Place, write_table
from tests.data.test_prepare import HALF, run, spec


def digests(dataset: object, split: str) -> set[str]:
    return set(subset(dataset, split).digests)  # type: ignore[arg-type]


def test_a_fresh_draw_holds_out_other_pictures_and_keeps_the_old_table(own: Path, home: Path) -> None:
    first, folder = run(own, home), home / "datasets" / "digits"
    old = (folder / "split.csv").read_bytes()
    assert current_draw(folder).number == 0
    archived = archive_table("digits", home, "2026-11-22")
    assert archived == folder / "split-1-2026-11-22.csv"
    assert archived.read_bytes() == old
    assert find_prepared("digits", home, spec(own), HALF) is None, "the dataset that the old table divided is not used"
    second = run(own, home)
    assert not second.reused
    assert second.key != first.key
    assert not digests(second, "test") & digests(first, "test")
    assert len(digests(second, "test")) == len(digests(first, "test"))
    assert current_draw(folder).worn == dict.fromkeys(digests(first, "test"), 1)
    assert set.union(*(digests(second, split) for split in SPLITS)) == set.union(
        *(digests(first, split) for split in SPLITS)
    )
    assert run(own, home).path == second.path


def test_pictures_are_held_out_again_only_when_none_are_left_and_the_oldest_first(own: Path, home: Path) -> None:
    tests = [digests(run(own, home), "test")]
    for day in range(1, 5):
        archive_table("digits", home, f"2026-11-{day:02}")
        tests.append(digests(run(own, home), "test"))
    assert [len(test) for test in tests] == [8] * 5
    assert set.union(*tests[:4]) == set.union(*(digests(run(own, home), split) for split in SPLITS))
    assert tests[4] == tests[0]


def test_an_archived_table_is_never_replaced(home: Path) -> None:
    """A person may have removed one of them, or put a copy beside them."""
    folder = home / "datasets" / "digits"
    for digest in "abc":
        write_table(folder / "split.csv", {digest * 64: Place("unit", "test")})
        archive_table("digits", home, "2026-11-22")
        if digest == "b":
            (folder / "split-1-2026-11-22.csv").unlink()
    (folder / "split-before-excel.csv").write_text("x")
    assert sorted(path.name for path in folder.glob("split-[0-9]*")) == [
        "split-2-2026-11-22.csv",
        "split-3-2026-11-22.csv",
    ]
    assert current_draw(folder) == Draw(3, {"b" * 64: 2, "c" * 64: 3})


def test_given_test_pictures_that_were_held_out_before_are_refused(own: Path, home: Path) -> None:
    """Else asking for a fresh set would only set the count of its decisions to zero."""
    manifest, paths = own / "given.csv", sorted(own.rglob("*.png"))

    def given(turn: int) -> Path:
        rows = (
            f"{path},{path.parent.name},{('train', 'val', 'test')[(i + turn) % 3]}\n" for i, path in enumerate(paths)
        )
        manifest.write_text("path,label,split\n" + "".join(rows))
        return manifest

    held_out = digests(run(given(0), home), "test")
    archive_table("digits", home, "2026-11-22")
    with pytest.raises(BadInput, match=rf"expected other test pictures .* found {len(held_out)} held out before: "):
        run(manifest, home)
    assert not digests(run(given(1), home), "test") & held_out


def test_a_draw_is_the_same_on_another_machine(own: Path, home: Path, tmp_path: Path) -> None:
    run(own, home)
    archive_table("digits", home, "2026-11-22")
    one = run(own, home)
    elsewhere = tmp_path / "another home"
    shutil.copytree(home / "datasets" / "digits", elsewhere / "datasets" / "digits", ignore=lambda *_: [one.path.name])
    (elsewhere / "datasets" / "digits" / "split.csv").unlink()
    other = run(own, elsewhere)
    assert (other.path / "split.csv").read_bytes() == (one.path / "split.csv").read_bytes()


def test_new_pictures_after_a_draw_are_placed_by_its_ranks(own: Path, home: Path, tmp_path: Path) -> None:
    from tasks.data.split import rank

    assert rank(0, "unit") != rank(0, "unit", 1) != rank(0, "unit", 2)
    assert rank(0, "unit", 0) == rank(0, "unit")


def test_there_must_be_a_table(own: Path, home: Path) -> None:
    with pytest.raises(BadInput, match="expected the split table of digits .* found none"):
        archive_table("digits", home, "2026-11-22")


def test_a_table_that_was_put_back_is_authoritative(own: Path, home: Path) -> None:
    """A dataset that another table divided is not used again in silence."""
    dataset, table = run(own, home), home / "datasets" / "digits" / "split.csv"
    text = table.read_text()
    table.write_text(text.replace(",test,", ",train,", 1))
    with pytest.raises(BadInput, match="found 1 of 32 missing or elsewhere: put the table back, or remove that folder"):
        run(own, home)
    table.unlink()
    with pytest.raises(BadInput, match="found 32 of 32 missing"):
        run(own, home)
    table.write_text(text)
    assert run(own, home).path == dataset.path


def test_a_copied_table_divides_the_same_pictures_in_a_new_home(own: Path, home: Path, tmp_path: Path) -> None:
    """The table is exported by copying it: another seed would draw another one."""
    first = run(own, home)
    elsewhere = tmp_path / "another home" / "datasets" / "digits"
    elsewhere.mkdir(parents=True)
    shutil.copy(home / "datasets" / "digits" / "split.csv", elsewhere)
    second = run(own, tmp_path / "another home", seed=7)
    for split in SPLITS:
        assert digests(second, split) == digests(first, split)
