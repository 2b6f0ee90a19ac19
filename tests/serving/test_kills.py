"""A kill at any moment of publish, promote or rollback leaves nothing to repair by hand; careless stores are caught.

Some points of each on every run; `benchmarks/kill_drill.py` tries them all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.kill_drill import CARELESS, WORKS, Databases, Drill, MakeStore, caught, requirements, table
from serving.artifact import Artifact
from tests.serving import tiny


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML builds entries in the system's temporary directory, which a killed child cannot clean."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    return tiny.make_artifact(tmp_path / "source")


def wrong_after(drill: Drill, kills: int) -> dict[str, list[str]]:
    points = drill.spread(kills)
    return {f"{n}: {drill.points[n]}": found for n in points if (found := drill.after_kill_at(n))}


KILLS = {"first publish and promote": 40, "second publish and promote": 30, "rollback": 15}


@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_any_point_leaves_what_the_next_process_can_use(tmp_path: Path, source: Artifact, work: str) -> None:
    drill = Drill(tmp_path / "drill", source, work)
    kinds = {name.partition(" ")[2] for name in drill.points if name.startswith("before")}
    files = set() if work == "rollback" else {"fsync", "rename", "mkdir", "copyfile", "rmtree"}
    assert kinds >= {"statement", "commit", *files}
    assert wrong_after(drill, KILLS[work]) == {}


@pytest.mark.parametrize("work", ["second publish and promote", "rollback"])
def test_on_postgresql_too(tmp_path: Path, source: Artifact, work: str, postgres_server: str) -> None:
    assert wrong_after(Drill(tmp_path / "drill", source, work, ledgers=Databases(postgres_server)), 8) == {}


@pytest.mark.parametrize("careless", CARELESS)
def test_the_drill_catches_a_careless_store(tmp_path: Path, source: Artifact, careless: MakeStore) -> None:
    assert caught(tmp_path / "drill", source, careless)


def test_what_the_program_requires() -> None:
    part = {"work": "rollback", "points": 120, "kills": 120, "bad": {}}
    figures = {"engines": {"SQLite": [part]}, "controls": {"ForgetsToTidy": True}}
    assert all(holds for holds, _ in requirements(figures))
    assert "| SQLite | rollback | 120 | 120 | 0 |" in table(figures)
    for spoiled in (
        figures | {"engines": {"SQLite": [part | {"kills": 99}]}},
        figures | {"engines": {"SQLite": [part | {"bad": {"3: before fsync": ["the champion opens: no"]}}]}},
        figures | {"controls": {"ForgetsToTidy": False}},
    ):
        assert [holds for holds, _ in requirements(spoiled)].count(False) == 1
