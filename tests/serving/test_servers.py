"""The ledger knows which servers run and what each answers with, and a server that cannot tell it goes on answering."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from serving.ledger import Ledger, opened
from serving.ledger_rows import SERVERS, TABLES
from serving.live import RETRY_SECONDS, Live
from serving.servers import ALIVE_SECONDS, REPORT_SECONDS, Server, leave, report, running
from tests.serving.world import World, answering, wait_for

DAY = 24 * 3600.0
HERE = f"{socket.gethostname()}:{os.getpid()}"


@dataclass
class Clock:
    now: float


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What everybody's clock shows."""
    clock = Clock(time.time())
    monkeypatch.setattr("time.time", lambda: clock.now)
    return clock


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    place = tmp_path if request.param == "sqlite" else request.getfixturevalue("database")
    with opened(place) as ledger:
        yield ledger


def server(number: int, clock: Clock, name: str = "colours") -> Server:
    return Server(f"id-{number}", name, f"host:{number}", number, 10 + number, "CPUExecutionProvider", None, clock.now)


def rows(ledger: Ledger) -> list[str]:
    with ledger.transaction() as connection:
        return sorted(connection.scalars(sa.select(SERVERS.c.id)))


def execute(ledger: Ledger, statement: str) -> None:
    with ledger.transaction() as connection:
        connection.exec_driver_sql(statement)


# --- the rows -----------------------------------------------------------------------------------------


def test_before_any_report_no_server_runs(ledger: Ledger) -> None:
    assert running(ledger, "colours") == ()


def test_servers_are_told_as_they_reported_by_place(ledger: Ledger, clock: Clock) -> None:
    servers = [server(number, clock) for number in (3, 1, 2)]
    for each in servers:
        report(ledger, each)
    assert running(ledger, "colours") == (servers[1], servers[2], servers[0])


def test_a_server_that_has_nothing_to_answer_with_is_told_too(ledger: Ledger, clock: Clock) -> None:
    empty = Server("id", "colours", "host:1", None, 0, None, "expected sha256 ...", clock.now)
    report(ledger, empty)
    assert running(ledger, "colours") == (empty,)


def test_a_later_report_replaces_the_earlier_one(ledger: Ledger, clock: Clock) -> None:
    first = server(1, clock)
    report(ledger, first)
    later = replace(first, version=7, generation=70, error="disk", provider=None, seen_at=clock.now + 1)
    report(ledger, later)
    assert running(ledger, "colours") == (later,)
    assert rows(ledger) == ["id-1"]


def test_who_leaves_is_gone_and_the_others_stay(ledger: Ledger, clock: Clock) -> None:
    for number in (1, 2):
        report(ledger, server(number, clock))
    leave(ledger, "id-1")
    assert running(ledger, "colours") == (server(2, clock),)
    leave(ledger, "id-1")  # twice, or never there
    assert rows(ledger) == ["id-2"]


def test_only_servers_of_the_name_count(ledger: Ledger, clock: Clock) -> None:
    report(ledger, server(1, clock))
    report(ledger, server(2, clock, "shapes"))
    assert running(ledger, "colours") == (server(1, clock),)
    assert running(ledger, "shapes") == (server(2, clock, "shapes"),)
    assert running(ledger, "colour") == ()


def test_a_server_not_heard_of_for_a_while_does_not_count_but_is_not_forgotten(ledger: Ledger, clock: Clock) -> None:
    silent = server(1, clock)
    report(ledger, silent)
    clock.now += ALIVE_SECONDS - 0.1
    assert running(ledger, "colours") == (silent,)
    clock.now += 0.2
    assert running(ledger, "colours") == ()
    report(ledger, server(2, clock))
    assert rows(ledger) == ["id-1", "id-2"]


def test_a_row_older_than_a_day_is_deleted_by_anothers_report(ledger: Ledger, clock: Clock) -> None:
    report(ledger, server(1, clock))
    clock.now += 60
    report(ledger, server(2, clock, "shapes"))
    clock.now += DAY - 30
    report(ledger, server(3, clock))
    assert rows(ledger) == ["id-2", "id-3"], "of any name, and not what is younger"


def test_alive_is_longer_than_two_reports_take() -> None:
    assert ALIVE_SECONDS > 2 * REPORT_SECONDS


def test_a_ledger_made_before_servers_were_kept_gets_their_table(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path) as old:
        execute(old, "DROP TABLE servers")
    with opened(tmp_path, create=False) as ledger:
        report(ledger, server(1, clock))
        assert running(ledger, "colours") == (server(1, clock),)


# --- what a server reports ----------------------------------------------------------------------------


@pytest.fixture
def live(world: World) -> Iterator[Live]:
    """Answers with version 1 of two; nothing runs in the background."""
    world.publish()
    world.publish()
    world.promote(1)
    live = world.live()
    live.refresh()
    live.report()
    yield live
    live.stop()


def told(world: World) -> Server:
    """The only server there is."""
    (server,) = running(world.ledger, "colours")
    return server


def test_a_server_says_what_it_answers_with(world: World, live: Live) -> None:
    found = told(world)
    assert (found.name, found.place, found.version, found.generation) == ("colours", HERE, 1, 1)
    assert (found.provider, found.error) == ("CPUExecutionProvider", None)
    assert abs(found.seen_at - time.time()) < 10


def test_a_swap_is_told_at_once(world: World, live: Live) -> None:
    world.promote(2)
    live.refresh()
    live.report()
    assert (told(world).version, told(world).generation) == (2, 2)


def test_a_server_in_the_background_tells_of_swaps_by_itself(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.start()
    try:
        assert told(world).version == 1, "start() tells of the first"
        world.promote(world.publish())
        wait_for(lambda: told(world).version == 2)
        assert answering(live) == 2
    finally:
        live.stop()
    assert running(world.ledger, "colours") == ()


def test_the_error_of_a_broken_champion_is_told_beside_the_version_that_still_answers(world: World, live: Live) -> None:
    world.damage(2)
    world.promote(2)
    live.refresh()
    live.report()
    found = told(world)
    assert (found.version, found.generation) == (1, 1)
    assert found.error is not None
    assert "model.onnx" in found.error
    world.ledger.rollback("colours", who="test", why="broken")
    live.refresh()
    live.report()
    assert (told(world).version, told(world).generation, told(world).error) == (1, 3, None)


def test_a_first_champion_that_is_broken_is_told_by_a_server_that_knows_its_name(world: World) -> None:
    world.publish()
    world.damage(1)
    world.promote(1)
    live = world.live("colours")
    live.refresh()
    live.report()
    found = told(world)
    assert (found.version, found.generation, found.provider) == (None, 0, None)
    assert found.error is not None
    live.stop()


def test_a_server_that_does_not_know_its_name_yet_reports_nothing(world: World) -> None:
    live = world.live()
    live.refresh()
    live.report()
    assert rows(world.ledger) == []
    live.stop()


def test_reporting_without_a_ledger_creates_none(tmp_path: Path) -> None:
    live = Live(tmp_path / "nowhere", name="colours")
    live.refresh()
    live.report()
    live.stop()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_changed_it_is_told_again_only_after_a_while(world: World, live: Live, clock: Clock) -> None:
    first = told(world).seen_at
    clock.now = first + REPORT_SECONDS - 0.1
    live.refresh()
    live.report()
    assert told(world).seen_at == first
    clock.now = first + REPORT_SECONDS
    live.report()
    assert told(world).seen_at == clock.now
    again = clock.now
    clock.now += REPORT_SECONDS - 0.1
    live.report()
    assert told(world).seen_at == again


def test_a_server_that_stops_takes_its_row_away_and_no_other(world: World) -> None:
    world.promote(world.publish())
    first, second = world.live(), world.live()
    for live in (first, second):
        live.refresh()
        live.report()
    assert len(running(world.ledger, "colours")) == 2, "of one process, as two servers"
    first.stop()
    assert len(running(world.ledger, "colours")) == 1
    second.stop()
    assert rows(world.ledger) == []


# --- a ledger that cannot be written ------------------------------------------------------------------

NO_WRITING = {
    "the table is gone": "DROP TABLE servers",
    "writing is refused": "CREATE TRIGGER no BEFORE INSERT ON servers BEGIN SELECT RAISE(ABORT, 'read only'); END",
}


@pytest.mark.parametrize("damage", NO_WRITING.values(), ids=NO_WRITING)
def test_a_ledger_that_cannot_be_written_stops_no_answers(
    world: World, live: Live, damage: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    execute(world.ledger, damage)
    clock.now += REPORT_SECONDS
    live.report()
    (said,) = caplog.messages
    assert "was not told about this server" in said
    assert (answering(live), live.last_error) == (1, None)
    world.promote(2)
    live.refresh()
    live.report()
    assert (answering(live), live.last_error) == (2, None)
    live.stop()


@pytest.mark.parametrize("damage", NO_WRITING.values(), ids=NO_WRITING)
def test_the_thread_that_follows_outlives_it(world: World, damage: str) -> None:
    world.promote(world.publish())
    live = world.live()
    live.start()
    try:
        execute(world.ledger, damage)
        for version in (2, 3):
            world.promote(world.publish())
            wait_for(lambda v=version: answering(live) == v)
        assert "thaw-follow" in [thread.name for thread in threading.enumerate()]
    finally:
        live.stop()


def test_what_could_not_be_told_is_told_once_the_ledger_can_be_written_again(
    world: World, live: Live, clock: Clock
) -> None:
    execute(world.ledger, "DROP TABLE servers")
    world.promote(2)
    live.refresh()
    live.report()
    with world.ledger.transaction() as connection:
        TABLES.create_all(connection)
    clock.now += REPORT_SECONDS
    live.report()
    assert told(world).version == 2


def test_it_stops_though_its_ledger_is_gone(world: World, live: Live) -> None:
    world.ledger.close()
    for path in world.home.glob("ledger.db*"):
        path.unlink()
    live.stop()


# --- counting -----------------------------------------------------------------------------------------


def test_swaps_and_failures_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    live = world.live()
    live.refresh()
    assert (live.swaps, live.failures) == (0, 0), "waiting for the first is neither"
    for _ in range(3):
        world.publish()
    world.damage(2)
    expected = {1: (1, 0), 2: (1, 1), 3: (2, 1)}
    for version, counts in expected.items():
        world.promote(version)
        live.refresh()
        assert (live.swaps, live.failures) == counts
        live.refresh()  # not at once again, and a champion that answers is not loaded again
        assert (live.swaps, live.failures) == counts
    world.ledger.promote("colours", 2, who="test", why="again")
    live.refresh()
    now = time.monotonic()
    monkeypatch.setattr("serving.live.time.monotonic", lambda: now + RETRY_SECONDS)
    live.refresh()
    assert (live.swaps, live.failures) == (2, 3), "each attempt counts"
    live.stop()


def test_a_ledger_that_cannot_be_read_is_no_failed_swap(world: World, live: Live) -> None:
    execute(world.ledger, "ALTER TABLE champions RENAME TO hidden")
    live.refresh()
    assert live.last_error is not None
    assert (live.swaps, live.failures) == (1, 0)
    execute(world.ledger, "ALTER TABLE hidden RENAME TO champions")
    live.refresh()
    assert (live.last_error, live.swaps, live.failures) == (None, 1, 0)
