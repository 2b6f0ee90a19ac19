"""The search for canaries, and what the drill makes of its checks; `python -m benchmarks.orchestration` runs it."""

from __future__ import annotations

import base64
import gzip
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import canaries
from benchmarks.canaries import Marks, leaks, mark, plant, search
from benchmarks.orchestration import CHECKS, judge_ready, requirements, table
from benchmarks.scenarios import moment, next_minute, seconds_between
from tests.benchmarks.spoiled import spoiled, unmet

MARKS = Marks("q0token0token0q", "q1name1name1nameq", "q2bytes2bytesq")


def found(place: Path, **options: Any) -> dict[str, set[str]]:
    return search(place, MARKS, **options)


# --- the search -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"before " + MARKS.token.encode() + b" after",
        *(base64.b64encode(b"x" * skip + MARKS.token.encode() + b"after") for skip in range(5)),
        MARKS.token.encode().hex().encode(),
        MARKS.token.encode().hex().upper().encode(),
        MARKS.token.encode("utf-16"),
        gzip.compress(MARKS.token.encode(), mtime=0),
    ],
)
def test_a_mark_is_found_in_any_form(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert found(tmp_path) == {"token": {"file"}, "name": set(), "bytes": set()}


@pytest.mark.parametrize("before", range(20))
def test_a_mark_across_two_chunks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.setattr(canaries, "_CHUNK", 20)
    (tmp_path / "file").write_bytes(bytes(before) + MARKS.bytes.encode() + bytes(50))
    assert found(tmp_path)["bytes"] == {"file"}


def test_a_mark_is_found_inside_of_a_compressed_archive_and_in_a_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", MARKS.bytes * 3)
    (tmp_path / MARKS.name).mkdir()
    assert found(tmp_path) == {"token": set(), "name": {MARKS.name}, "bytes": {"arrays.npz"}}


def test_what_is_no_archive_after_all_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PK\x03\x04" + MARKS.token.encode())
    (tmp_path / "b").write_bytes(b"\x1f\x8b" + MARKS.token.encode())
    assert found(tmp_path)["token"] == {"a", "b"}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(MARKS.token[:-1].encode() + b"-" + MARKS.name[1:].encode())
    assert not any(found(tmp_path).values())


def test_the_user_s_own_folder_is_left_out(tmp_path: Path) -> None:
    for folder in ("own", "own-not"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(MARKS.name)
    assert found(tmp_path, without=[tmp_path / "own"])["name"] == {"own-not/file"}


def test_every_mark_that_is_planted_is_found(tmp_path: Path) -> None:
    planted = plant(tmp_path, MARKS)
    assert len(planted) == 4
    assert found(tmp_path) == {"token": planted, "name": planted, "bytes": planted}


def test_a_marked_picture_is_still_one_and_a_cut_one_is_not(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (40, 40), 7).save(tmp_path / name)
    whole, cut = mark(tmp_path / "a.png", MARKS), mark(tmp_path / "b.png", MARKS, cut=True)
    with Image.open(whole) as image:
        assert image.convert("L").getpixel((3, 3)) == 7
    with Image.open(cut) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    names = {whole.name, cut.name}
    assert found(tmp_path) == {"token": set(), "name": names, "bytes": names}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_name_may_stand_at_home_and_nothing_else_anywhere() -> None:
    private = {"home/datasets/x/table.json", "home/runs/20261101-000000-abcdef/error.txt"}
    assert leaks({"token": set(), "name": private, "bytes": set()}) == {}
    for kind in ("token", "bytes"):
        assert leaks({kind: private}) == {kind: sorted(private)}
    for path in ("home/logs/worker.log", "prefect/prefect.db-wal", "home/runs/1/result.json", "home/ledger.db"):
        assert leaks({"name": private | {path}}) == {"name": [path]}


# --- what the drill makes of it ---------------------------------------------------------------------

FIGURES: dict[str, Any] = {
    "seconds": 500, "machine": {"cores": 2, "load_before": 0.1}, "errors": {},
    "checks": {name: {"holds": True, "figure": "12 s"} for names in CHECKS.values() for name in names},
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    assert table(FIGURES).count("| 12 s | yes |") == len(FIGURES["checks"])


@pytest.mark.parametrize("name", FIGURES["checks"])
def test_a_check_that_fails_is_noticed(name: str) -> None:
    bad = spoiled(FIGURES, f"checks/{name}/holds", False)
    assert unmet(requirements(bad)) == [f"{name}: 12 s"]
    assert "| 12 s | NO |" in table(bad)


@pytest.mark.parametrize("name", FIGURES["checks"])
def test_a_check_that_was_not_reached_is_noticed(name: str) -> None:
    checks = {other: check for other, check in FIGURES["checks"].items() if other != name}
    assert unmet(requirements(FIGURES | {"checks": checks})) == [f"{name}: not reached"]
    assert "| not reached | NO |" in table(FIGURES | {"checks": checks})


def test_a_scenario_that_breaks_off_is_noticed() -> None:
    assert unmet(requirements(FIGURES | {"errors": {"form": "TimeoutError: gone"}})) == [
        "form broke off: TimeoutError: gone"
    ]


def test_only_what_was_asked_for_is_required() -> None:
    assert len(requirements(FIGURES | {"checks": {}}, ["schedule", "stop"])) == 6


@pytest.mark.parametrize(
    ("seconds", "load", "good", "words"),
    [
        (89, 0.0, True, "89 s, limit 90 s"),
        (91, 0.0, False, "91 s, limit 90 s"),
        (91, 50_000.0, True, "91 s, limit 90 s, not judged at a load of 50000.0"),
    ],
)
def test_a_start_is_judged_where_the_machine_was_idle(seconds: float, load: float, good: bool, words: str) -> None:
    assert judge_ready(seconds, 90, load) == (words, good)


def test_a_full_minute_is_never_this_one() -> None:
    assert next_minute(moment("2026-11-01T10:58:00Z")) == moment("2026-11-01T10:59:00Z")
    assert next_minute(moment("2026-11-01T10:59:59.9Z")) == moment("2026-11-01T11:00:00Z")


def test_steps_that_overlap_are_seen() -> None:
    def steps(*seconds: int) -> list[dict[str, str]]:
        return [
            {"start_time": f"2026-11-01T10:00:{one:02}Z", "end_time": f"2026-11-01T10:00:{one + 5:02}Z"}
            for one in seconds
        ]

    assert seconds_between(steps(0, 5), steps(12, 18)) == 2
    assert seconds_between(steps(0, 5), steps(8, 18)) == -2
    assert not seconds_between(steps(0), []) > 0
