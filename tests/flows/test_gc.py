"""`thaw gc` takes away what nobody can need again, and nothing else."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving import servers
from serving.ledger import Ledger, opened
from serving.servers import ALIVE_SECONDS, Server
from serving.store import Store
from tests.flows.conftest import NAME, intact, promote, publish, stored, thaw
from tests.flows.test_cli import refused

SERVER = Server("an id", NAME, "here:1", 1, 1, "CPUExecutionProvider", None, 0.0)
NOTHING = "nothing to remove\n"


@pytest.fixture(autouse=True)
def _model_store(bentoml_home: Path) -> None:
    """Of each test's own."""


def kept(home: Path, name: str = NAME) -> list[int]:
    """The versions whose files are in the model store and verify."""
    with opened(home, create=False) as ledger:
        store = Store(home, ledger)
        found = [entry.version for entry in ledger.versions(name) if store.is_stored(entry)]
        assert all(store.open(name, version).contents.name == name for version in found)
    return sorted(found)


def entry_of(home: Path, version: int) -> Path:
    """Where a version lies in the model store."""
    with opened(home, create=False) as ledger:
        return Store(home, ledger).open(NAME, version).path


def test_the_newest_stay(home: Path) -> None:
    publish(home, 8)
    ran = thaw("gc")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "removed colours:1\nremoved colours:2\nremoved colours:3\n"
    assert kept(home) == [4, 5, 6, 7, 8]
    assert thaw("gc", "--keep", "2").out == "removed colours:4\nremoved colours:5\nremoved colours:6\n"
    assert kept(home) == [7, 8]
    assert intact(home)


def test_every_name_keeps_its_own(home: Path) -> None:
    publish(home, 3)
    publish(home, 2, "shapes")
    assert thaw("gc", "--keep", "1", "--json").document["versions"] == ["colours:1", "colours:2", "shapes:1"]
    assert (kept(home), kept(home, "shapes")) == ([3], [2])


def test_the_last_three_champions_stay_however_old(home: Path) -> None:
    publish(home, 8)
    promote(home, 1, 2, 3, 4, 3)
    assert thaw("gc", "--keep", "1", "--json").document["versions"] == [f"colours:{v}" for v in (1, 5, 6, 7)]
    assert kept(home) == [2, 3, 4, 8]
    ran = thaw("rollback", NAME, "--json")
    assert (ran.status, ran.document["version"]) == (0, 4), "the way back is still there"


def test_a_champion_that_was_gone_back_to_counts(home: Path) -> None:
    publish(home, 6)
    promote(home, 1, 2, 3)
    with opened(home, create=False) as ledger:
        ledger.rollback(NAME, to=1, who="test", why="")
    assert thaw("gc", "--keep", "1", "--json").document["versions"] == ["colours:4", "colours:5"]
    assert kept(home) == [1, 2, 3, 6]


def test_what_a_running_server_answers_with_stays(home: Path) -> None:
    """A server that could not follow, or of a ledger put back: its version may be nobody's champion any more."""
    publish(home, 6)
    with opened(home, create=False) as ledger:
        servers.report(ledger, replace(SERVER, seen_at=time.time()))
        servers.report(ledger, replace(SERVER, id="gone", place="gone:2", version=2, seen_at=time.time() - 60))
        servers.report(ledger, replace(SERVER, id="new", place="new:3", version=None, seen_at=time.time()))
        assert ALIVE_SECONDS < 60
    assert thaw("gc", "--keep", "2", "--json").document["versions"] == [f"colours:{v}" for v in (2, 3, 4)]
    assert kept(home) == [1, 5, 6]


def test_a_dry_run_names_the_same_and_removes_nothing(home: Path) -> None:
    publish(home, 7)
    promote(home, 1)
    half = interrupted(home)
    before, history = stored_here(home), events(home)
    dry, dry_json = thaw("gc", "--dry-run"), thaw("gc", "--dry-run", "--json").document
    assert dry.out == f"would remove colours:2\nwould remove {half}\n"
    assert (stored_here(home), events(home)) == (before, history)
    real = thaw("gc", "--json").document
    assert dry_json == real | {"dry_run": True}
    assert real == {"dry_run": False, "versions": ["colours:2"], "leftovers": [str(half)]}
    assert kept(home) == [1, 3, 4, 5, 6, 7]


def stored_here(home: Path) -> list[Path]:
    return sorted(entry_of(home, 1).parent.parent.rglob("*"))


def events(home: Path) -> list[str]:
    with opened(home, create=False) as ledger:
        return [event.kind for event in ledger.history(NAME)]


def interrupted(home: Path) -> Path:
    """An entry that the ledger does not name, as a kill just before it was recorded leaves one."""
    with opened(home, create=False) as ledger:
        half = entry_of(home, 1).parent / f"{ledger.id}-99"
    half.mkdir()
    (half / "model.onnx").write_bytes(b"half")
    return half


def test_what_interrupted_publishes_left_is_removed(home: Path, bentoml_home: Path) -> None:
    publish(home, 1)
    with opened(home, create=False) as ledger:
        staging = bentoml_home / f".thaw-{ledger.id}-{NAME}"
    (staging / NAME / "half").mkdir(parents=True)
    half = interrupted(home)
    ran = thaw("gc")
    assert ran.out == f"removed {half}\nremoved {staging}\n"
    assert not half.exists()
    assert not staging.exists()
    assert kept(home) == [1]


def test_a_removal_that_was_interrupted_is_finished(home: Path) -> None:
    """Recorded, but the files are still there."""
    publish(home, 2)
    with opened(home, create=False) as ledger:
        ledger.record_removal(ledger.version(NAME, 1), "test", "and then the power went")
    assert thaw("gc", "--keep", "1").out == "removed colours:1\n"
    assert kept(home) == [2]
    assert thaw("gc", "--keep", "1").out == NOTHING


def test_entries_of_another_ledger_stay(home: Path, tmp_path: Path) -> None:
    """Two homes with the same model name share one model store."""
    other = tmp_path / "other" / "home"
    publish(home, 3)
    publish(other, 3)
    left = interrupted(other)
    assert thaw("gc", "--keep", "1", "--json").document == {
        "dry_run": False, "versions": ["colours:1", "colours:2"], "leftovers": [],
    }  # fmt: skip
    assert kept(other) == [1, 2, 3]
    assert left.is_dir()


def test_a_model_that_somebody_else_keeps_there_stays(home: Path, bentoml_home: Path) -> None:
    publish(home, 2)
    strange = bentoml_home / "models" / NAME / "strange"
    strange.mkdir()
    thaw("gc", "--keep", "1")
    assert strange.is_dir()


def test_a_second_time_there_is_nothing_to_remove(home: Path) -> None:
    publish(home, 4)
    thaw("gc", "--keep", "1")
    before = events(home)
    for arguments in (("gc", "--keep", "1"), ("gc", "--keep", "1", "--dry-run")):
        ran = thaw(*arguments)
        assert (ran.status, ran.out) == (0, NOTHING)
    assert thaw("gc", "--keep", "1", "--json").document == {"dry_run": False, "versions": [], "leftovers": []}
    assert events(home) == before


def test_a_removed_version_stays_in_the_history(home: Path) -> None:
    publish(home, 3)
    promote(home, 3)
    gone = entry_of(home, 1)
    thaw("gc", "--keep", "1")
    assert not gone.exists()
    model = thaw("show", NAME, "--json").document["models"][0]
    assert [entry["version"] for entry in model["versions"]] == [3, 2, 1]
    removals = [(event["version"], event["why"]) for event in model["history"] if event["kind"] == "remove"]
    assert removals == [(1, "thaw gc --keep 1"), (2, "thaw gc --keep 1")]
    assert " remove " in thaw("show", NAME).out


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "colours:1"),
        ("promote", "colours:1", "--override", "I want it"),
        ("rollback", NAME, "--to", "1"),
        ("show", "colours:1"),
        ("predict", "picture.png", "--name", "colours:1"),
    ],
    ids=" ".join,
)
def test_a_removed_version_cannot_be_used_again_and_says_why(home: Path, arguments: tuple[str, ...]) -> None:
    publish(home, 5)
    promote(home, 1, 2, 3, 4)
    thaw("gc", "--keep", "1")
    assert kept(home) == [2, 3, 4, 5]
    Path("picture.png").write_bytes(b"")
    message = refused(thaw(*arguments, "--json"), "found it removed by `thaw gc`")
    assert message.startswith("expected colours:1 in the model store")
    with opened(home, create=False) as ledger:
        assert ledger.champion(NAME).version == 4, "nothing moved"


def test_the_next_version_takes_a_new_number(home: Path) -> None:
    publish(home, 3)
    thaw("gc", "--keep", "1")
    publish(home, 1)
    assert kept(home) == [3, 4]


def test_a_lost_entry_that_was_not_removed_is_another_message(home: Path, bentoml_home: Path) -> None:
    """The control of the message above: a version that is gone without `thaw gc` is damage, not a decision."""
    publish(home, 1)
    entry_of(home, 1).rename(bentoml_home / "elsewhere")
    ran = thaw("promote", "colours:1", "--json")
    assert ran.status != 0
    assert "check BENTOML_HOME" in ran.document["error"]["message"]


def test_keep_0_and_a_missing_home_are_refused(home: Path) -> None:
    publish(home, 1)
    assert thaw("gc", "--keep", "0").status == 2
    assert kept(home) == [1]


def test_without_a_ledger_none_is_made(home: Path) -> None:
    refused(thaw("gc", "--json"), "expected a ledger")
    assert not list(home.iterdir())
    assert not [path for path in stored() if path.name.startswith(".thaw-")]


def test_a_version_promoted_meanwhile_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the removal somebody promotes it: the ledger refuses, and its files are still there."""
    publish(home, 3)
    look = Ledger.last_champions

    def then_promoted(self: Ledger, name: str, count: int) -> tuple[int, ...]:
        found = look(self, name, count)
        self.promote(name, 1, who="test", why="meanwhile")
        return found

    monkeypatch.setattr(Ledger, "last_champions", then_promoted)
    ran = thaw("gc", "--keep", "1", "--json")
    assert ran.status != 0
    assert "colours:1 is the champion" in ran.document["error"]["message"]
    assert kept(home) == [1, 2, 3]


def test_checkpoints_and_audits_go_a_week_after_they_were_left(home: Path) -> None:
    publish(home, 1)
    left, going_on, aside = home / "checkpoints" / "left", home / "checkpoints" / "going-on", home / ".tmp-audit-killed"
    for place in (left, going_on, aside):
        (place / "epoch-000001-step-000000001").mkdir(parents=True)
    week_ago = time.time() - 8 * 86_400
    for place in (left, aside):
        os.utime(place, (week_ago, week_ago))
    assert thaw("gc", "--dry-run").out == f"would remove {left}\nwould remove {aside}\n"
    assert left.is_dir()
    assert thaw("gc").out == f"removed {left}\nremoved {aside}\n"
    assert not aside.exists()
    assert [place.name for place in (home / "checkpoints").iterdir()] == ["going-on"]
