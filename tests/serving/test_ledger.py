"""Design section 7: one champion a name, moved by compare-and-swap, with a history that only grows."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from serving.database import FILE
from serving.errors import BadInput, Conflict
from serving.ledger import Champion, Event, Ledger, opened

FORK = multiprocessing.get_context("fork")
RIVALS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a ledger may be: a home, or an empty database."""
    return tmp_path / "home" if request.param == "sqlite" else str(request.getfixturevalue("database"))


@pytest.fixture
def ledger(place: Path | str) -> Iterator[Ledger]:
    with opened(place) as ledger:
        yield ledger


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with opened(tmp_path) as ledger:
        yield ledger


def publish(ledger: Ledger, *versions: int, name: str = "m", verdict: str = "PASSED") -> None:
    for version in versions:
        ledger.publish(name, version, f"digest-{version}", f"{name}:x-{version}", verdict, "ann", "published")


def promote(ledger: Ledger, version: int, name: str = "m") -> Champion:
    return ledger.promote(name, version, who="ann", why="better", release_hold=True)


def rollback(ledger: Ledger, to: int | None = None) -> Champion:
    return ledger.rollback("m", to=to, who="bob", why="misses scratches")


def told(ledger: Ledger, name: str = "m") -> list[tuple[str, int | None]]:
    return [(event.kind, event.version) for event in ledger.history(name)]


# --- opening ------------------------------------------------------------------------------------------


def test_reading_creates_nothing(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, f"sqlite:///{tmp_path}/other/ledger.db"):
        with pytest.raises(BadInput, match="found none"):
            Ledger(place, create=False)
    assert list(tmp_path.iterdir()) == []


def test_reading_opens_what_is_there(place: Path | str, ledger: Ledger) -> None:
    publish(ledger, 1)
    with opened(place, create=False) as reader:
        assert reader.names() == ("m",)
        assert reader.id == ledger.id


@pytest.mark.parametrize("name", ["plain", "with space", "what?", "a#b", "50%25"])
def test_the_file_is_in_the_home_whatever_its_path(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as ledger:
        publish(ledger, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / FILE).is_file()


def test_a_sqlite_url_is_the_same_ledger(tmp_path: Path, file_ledger: Ledger) -> None:
    publish(file_ledger, 1)
    with opened(f"sqlite:///{tmp_path / FILE}", create=False) as by_url:
        assert by_url.id == file_ledger.id
        assert promote(by_url, 1) == file_ledger.champion("m")


def test_it_is_durable_and_lets_readers_in(tmp_path: Path, file_ledger: Ledger) -> None:
    publish(file_ledger, 1)
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with file_ledger._engine.connect() as used:
        assert used.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_ids_differ_between_ledgers_and_stay(tmp_path: Path) -> None:
    ids = []
    for name in ("one", "two", "one"):
        with opened(tmp_path / name) as ledger:
            ids.append(ledger.id)
    assert ids[0] == ids[2] != ids[1]


# --- URLs ---------------------------------------------------------------------------------------------


def test_a_postgresql_url_needs_no_drivers_name(database: str) -> None:
    assert database.startswith("postgresql://")
    with opened(database) as ledger:
        publish(ledger, 1)
    with opened(database.replace("postgresql://", "postgresql+psycopg://"), create=False) as by_driver:
        assert by_driver.id == ledger.id
        assert by_driver.names() == ("m",)


WRONG_URLS = {
    "another database": "mysql://ann:hunter2@db/thaw",
    "another database's driver": "mysql+pymysql://ann:hunter2@db/thaw",
    "an old name": "postgres://ann:hunter2@db/thaw",
    "no database": "https://ann:hunter2@db/thaw",
    "a port that is none": "postgresql://ann:hunter2@db:port/thaw",
    "a driver there is none of": "postgresql+nothing://ann:hunter2@db/thaw",
    "another driver": "postgresql+psycopg2://ann:hunter2@db/thaw",
    "a driver that does not wait": "postgresql+asyncpg://ann:hunter2@db/thaw",
    "a driver of SQLite there is none of": "sqlite+nothing:///ledger.db",
    "no URL": "ann:hunter2@db",
    "words": "the usual ledger, hunter2",
    "half a URL": "://hunter2",
}


@pytest.mark.parametrize("url", WRONG_URLS.values(), ids=WRONG_URLS)
def test_what_is_no_url_of_a_supported_database_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    for create in (True, False):
        with pytest.raises(BadInput, match="THAW_LEDGER") as caught:
            Ledger(url, create=create)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_shows_no_password(database: str) -> None:
    wrong = database.replace("thaw@", "thaw:hunter2@") + "-none"
    with pytest.raises(Exception, match="does not exist") as caught:
        Ledger(wrong)
    assert "hunter2" not in str(caught.value)


# --- publishing ---------------------------------------------------------------------------------------


def test_before_anything_there_is_nothing(ledger: Ledger) -> None:
    assert ledger.names() == ()
    assert ledger.versions("m") == ()
    assert ledger.history("m") == ()
    assert ledger.champion("m") == Champion("m", None, 0, False)
    with pytest.raises(BadInput, match="m:1"):
        ledger.version("m", 1)


def test_versions_are_listed_newest_first_and_names_sorted(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    publish(ledger, 1, name="b")
    assert [entry.version for entry in ledger.versions("m")] == [3, 2, 1]
    assert ledger.names() == ("b", "m")
    assert ledger.version("m", 2).digest == "digest-2"
    assert ledger.champion("m").version is None, "publishing moves no champion"


def test_a_version_is_published_once(ledger: Ledger) -> None:
    publish(ledger, 1)
    with pytest.raises(Conflict, match="publish again"):
        publish(ledger, 1)
    assert told(ledger) == [("publish", 1)], "the refused attempt left no event"


# --- promoting ----------------------------------------------------------------------------------------


def test_each_promotion_is_the_next_generation(ledger: Ledger) -> None:
    publish(ledger, 1, 2)
    assert promote(ledger, 1) == Champion("m", 1, 1, False)
    assert promote(ledger, 2) == Champion("m", 2, 2, False)
    assert ledger.champion("m") == Champion("m", 2, 2, False)


def test_names_have_champions_of_their_own(ledger: Ledger) -> None:
    publish(ledger, 1)
    publish(ledger, 1, name="other")
    promote(ledger, 1)
    assert ledger.champion("other").version is None


def test_only_what_was_published_is_promoted(ledger: Ledger) -> None:
    publish(ledger, 1)
    with pytest.raises(BadInput, match="m:2"):
        promote(ledger, 2)


@pytest.mark.parametrize("verdict", ["REJECTED", "INCONCLUSIVE"])
def test_what_did_not_pass_needs_an_override_with_a_reason(ledger: Ledger, verdict: str) -> None:
    publish(ledger, 1, verdict=verdict)
    with pytest.raises(BadInput, match=verdict):
        ledger.promote("m", 1, who="ann", why="because")
    with pytest.raises(BadInput, match=verdict):
        ledger.promote("m", 1, who="ann", why="because", release_hold=True)
    assert ledger.champion("m").version is None
    ledger.promote("m", 1, who="ann", why="override: the old one is broken", override=True)
    assert ledger.champion("m").version == 1
    last = ledger.history("m")[-1]
    assert (last.kind, last.who, last.why) == ("promote", "ann", "override: the old one is broken")
    assert last.digest == "digest-1"


def test_a_decision_against_another_champion_is_refused(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    ledger.promote("m", 1, who="ann", why="", expected_generation=0)
    ledger.promote("m", 2, who="ann", why="", expected_generation=1)
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="certify again"):
            ledger.promote("m", 3, who="ann", why="", expected_generation=stale)
    assert ledger.champion("m") == Champion("m", 2, 2, False)
    assert told(ledger)[-1] == ("promote", 2), "the refused attempts left no event"


# --- rolling back -------------------------------------------------------------------------------------


def test_rollback_goes_back_one_champion_at_a_time(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    for version in (1, 2, 3):
        promote(ledger, version)
    assert ledger.rollback_target("m") == 2
    assert rollback(ledger).version == 2
    assert rollback(ledger).version == 1
    with pytest.raises(BadInput, match="expected an earlier champion"):
        rollback(ledger)
    assert ledger.champion("m") == Champion("m", 1, 5, True), "generations only grow"


def test_only_versions_that_were_champion_count(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3, 4)
    promote(ledger, 1)
    promote(ledger, 4)
    assert rollback(ledger).version == 1


def test_a_version_taken_back_is_not_gone_back_to(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    promote(ledger, 1)
    promote(ledger, 2)
    rollback(ledger)
    promote(ledger, 3)
    assert rollback(ledger).version == 1


def test_promoting_the_champion_again_does_not_hide_the_one_before(ledger: Ledger) -> None:
    """That is how a hold is released: the next rollback must still change what is served."""
    publish(ledger, 1, 2, 3)
    for version in (1, 2, 3):
        promote(ledger, version)
    rollback(ledger)
    promote(ledger, 2)
    assert rollback(ledger).version == 1


def test_a_version_promoted_twice_with_another_between_is_two_champions(ledger: Ledger) -> None:
    publish(ledger, 1, 2)
    for version in (1, 2, 1):
        promote(ledger, version)
    assert rollback(ledger).version == 2
    assert rollback(ledger).version == 1


def test_rollback_to_an_earlier_champion(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3, 4)
    for version in (1, 2, 3):
        promote(ledger, version)
    for never in (4, 3, 9):  # never champion; champion now; never published
        with pytest.raises(BadInput, match="found 1, 2"):
            rollback(ledger, to=never)
    assert rollback(ledger, to=1).version == 1
    with pytest.raises(BadInput):
        rollback(ledger)


def test_rollback_without_an_earlier_champion_changes_nothing(ledger: Ledger) -> None:
    publish(ledger, 1)
    for _ in range(2):
        with pytest.raises(BadInput, match="found none"):
            rollback(ledger)
        if ledger.champion("m").version is None:
            promote(ledger, 1)
    assert ledger.champion("m") == Champion("m", 1, 1, False)
    assert told(ledger) == [("publish", 1), ("promote", 1)]


# --- the hold -----------------------------------------------------------------------------------------


@pytest.fixture
def held(ledger: Ledger) -> Ledger:
    publish(ledger, 1, 2, 3)
    promote(ledger, 1)
    promote(ledger, 2)
    assert rollback(ledger).hold
    return ledger


def test_a_hold_stops_automatic_promotion(held: Ledger) -> None:
    for _ in range(2):
        with pytest.raises(Conflict, match="on hold"):
            held.promote("m", 3, who="flow", why="passed", expected_generation=3)
    assert held.champion("m") == Champion("m", 1, 3, True)


def test_a_hold_does_not_stop_publishing(held: Ledger) -> None:
    publish(held, 4)
    assert held.champion("m").hold


def test_releasing_the_hold_promotes_and_says_so(held: Ledger) -> None:
    assert held.promote("m", 3, who="ann", why="fixed", release_hold=True) == Champion("m", 3, 4, False)
    assert told(held)[-2:] == [("release", 3), ("promote", 3)]
    publish(held, 4)
    assert held.promote("m", 4, who="flow", why="passed").version == 4


def test_an_override_on_a_held_name_leaves_it_held(held: Ledger) -> None:
    assert held.promote("m", 3, who="ann", why="override: urgent", override=True) == Champion("m", 3, 4, True)
    with pytest.raises(Conflict, match="on hold"):
        held.promote("m", 2, who="flow", why="passed")


def test_releasing_without_a_hold_is_not_recorded(ledger: Ledger) -> None:
    publish(ledger, 1)
    promote(ledger, 1)
    assert "release" not in [kind for kind, _ in told(ledger)]


# --- history ------------------------------------------------------------------------------------------


def test_history_is_complete_ordered_and_only_grows(held: Ledger) -> None:
    before = held.history("m")
    assert [(event.kind, event.version) for event in before] == [
        ("publish", 1), ("publish", 2), ("publish", 3), ("promote", 1), ("promote", 2), ("rollback", 1), ("hold", 1),
    ]  # fmt: skip
    assert before[5] == Event(before[5].at, "m", "rollback", 1, "digest-1", "bob", "misses scratches")
    assert [event.at for event in before] == sorted(event.at for event in before)
    promote(held, 3)
    publish(held, 1, name="other")
    after = held.history("m")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 2  # release, promote


# --- removals -----------------------------------------------------------------------------------------


def test_the_last_champions_are_the_last_that_were_served_each_once(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3, 4, 5)
    assert ledger.last_champions("m", 3) == ()
    for version in (1, 2, 1, 3):
        promote(ledger, version)
    assert ledger.last_champions("m", 9) == (3, 1, 2)
    rollback(ledger, to=2)
    assert ledger.last_champions("m", 9) == (2, 3, 1), "a rollback serves it again"
    for count in range(4):
        assert ledger.last_champions("m", count) == (2, 3, 1)[:count]
    assert ledger.last_champions("other", 3) == ()


def test_a_removal_is_an_event_and_the_version_stays(ledger: Ledger) -> None:
    publish(ledger, 1, 2, 3)
    publish(ledger, 1, name="other")
    promote(ledger, 2)
    assert ledger.removed("m") == set()
    ledger.record_removal(ledger.version("m", 1), "ann", "thaw gc")
    assert ledger.removed("m") == {1}
    assert ledger.removed("other") == set()
    assert [entry.version for entry in ledger.versions("m")] == [3, 2, 1]
    last = ledger.history("m")[-1]
    assert (last.kind, last.version, last.digest, last.who, last.why) == ("remove", 1, "digest-1", "ann", "thaw gc")


def test_a_champion_is_not_removed(ledger: Ledger) -> None:
    publish(ledger, 1, 2)
    promote(ledger, 1)
    before = ledger.history("m")
    with pytest.raises(Conflict, match="m:1 is the champion"):
        ledger.record_removal(ledger.version("m", 1), "ann", "thaw gc")
    assert ledger.history("m") == before
    promote(ledger, 2)
    ledger.record_removal(ledger.version("m", 1), "ann", "thaw gc")
    assert ledger.removed("m") == {1}


# --- races --------------------------------------------------------------------------------------------


def try_to_promote(place: Path | str, version: int, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    with opened(place, create=False) as ledger:
        start.wait(30)
        try:
            champion = ledger.promote("m", version, who=f"rival-{version}", why="race", expected_generation=1)
            results.put(f"won {champion.version}")
        except Conflict:
            results.put("conflict")
        except Exception as error:
            results.put(repr(error))


@pytest.mark.parametrize("attempt", range(3))
def test_of_eight_processes_that_promote_against_one_champion_one_wins(place: Path | str, attempt: int) -> None:
    with opened(place) as ledger:
        publish(ledger, *range(1, RIVALS + 2))
        promote(ledger, RIVALS + 1)
    start, results = FORK.Barrier(RIVALS), FORK.Queue()
    rivals = [FORK.Process(target=try_to_promote, args=(place, v, start, results)) for v in range(1, RIVALS + 1)]
    for rival in rivals:
        rival.start()
    outcomes = sorted(results.get(timeout=60) for _ in rivals)
    for rival in rivals:
        rival.join(30)
    assert outcomes[:-1] == ["conflict"] * (RIVALS - 1)
    with opened(place) as ledger:
        champion = ledger.champion("m")
        assert outcomes[-1] == f"won {champion.version}"
        assert champion.generation == 2
        assert [kind for kind, _ in told(ledger)].count("promote") == 2, "losers leave no event"


def create(place: Path | str, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    start.wait(30)
    try:
        with opened(place) as ledger:
            results.put(ledger.id)
    except Exception as error:
        results.put(repr(error))


def test_eight_processes_that_make_a_ledger_make_one(place: Path | str) -> None:
    start, results = FORK.Barrier(RIVALS), FORK.Queue()
    rivals = [FORK.Process(target=create, args=(place, start, results)) for _ in range(RIVALS)]
    for rival in rivals:
        rival.start()
    ids = {results.get(timeout=60) for _ in rivals}
    for rival in rivals:
        rival.join(30)
    with opened(place, create=False) as ledger:
        assert ids == {ledger.id}


def test_a_swap_lost_after_the_look_is_a_conflict_and_leaves_no_event(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the database does not lock readers out (PostgreSQL), the row's generation alone must decide."""
    publish(ledger, 1, 2)
    promote(ledger, 1)
    for seen in (Champion("m", None, 0, False), Champion("m", 1, 7, False)):
        monkeypatch.setattr("serving.ledger.champion_of", lambda *_, seen=seen: seen)
        with pytest.raises(Conflict, match="changed meanwhile"):
            ledger.promote("m", 2, who="ann", why="")
    monkeypatch.undo()
    assert ledger.champion("m") == Champion("m", 1, 1, False)
    assert told(ledger)[-1] == ("promote", 1)
