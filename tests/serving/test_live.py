"""A server keeps answering with a champion that works, follows the ledger, and says what went wrong."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from serving import servers
from serving.database import FILE
from serving.ledger import Ledger, opened
from serving.live import RETRY_SECONDS, Live
from tests.serving.edges import client_of
from tests.serving.world import GREY, World, answering, wait_for

# --- the first champion -------------------------------------------------------------------------------


def test_without_a_home_nothing_is_created_and_nothing_is_wrong(tmp_path: Path) -> None:
    live = Live(tmp_path / "nowhere")
    live.refresh()
    assert (live.current, live.last_error) == (None, None)
    assert list(tmp_path.iterdir()) == []
    live.stop()


def test_the_ledger_may_come_later(tmp_path: Path, bentoml_home: Path) -> None:
    live = Live(tmp_path / "home", device="cpu")
    live.refresh()
    with opened(tmp_path / "home") as ledger:
        world = World(tmp_path, ledger, bentoml_home)
        live.refresh()
        world.promote(world.publish())
        live.refresh()
        assert (answering(live), live.last_error) == (1, None)
    live.stop()


def test_published_is_not_promoted(world: World) -> None:
    world.publish()
    live = world.live()
    live.refresh()
    assert (live.current, live.last_error) == (None, None)
    live.stop()


def test_what_is_loaded_says_what_it_is(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    assert live.current is not None
    entry = world.ledger.version("colours", 1)
    assert (live.current.name, live.current.version, live.current.generation) == ("colours", 1, 1)
    assert live.current.artifact.digest == entry.digest
    live.stop()


# --- following ----------------------------------------------------------------------------------------


def test_promotions_and_rollbacks_are_followed_in_the_background(world: World) -> None:
    for _ in range(3):
        world.publish()
    world.promote(1)
    live = world.live()
    live.start()
    try:
        assert answering(live) == 1, "start() waits for the first"
        for version in (2, 3):
            world.promote(version)
            wait_for(lambda v=version: answering(live) == v)
        world.ledger.rollback("colours", who="test", why="worse")
        wait_for(lambda: answering(live) == 2)
        world.ledger.rollback("colours", to=1, who="test", why="worse still")
        wait_for(lambda: answering(live) == 1)
        assert live.current is not None
        assert live.current.generation == world.ledger.champion("colours").generation == 5
    finally:
        live.stop()


def test_an_unchanged_champion_is_not_loaded_again(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    first = live.current
    world.publish()
    live.refresh()
    assert live.current is first
    live.stop()


def test_a_request_keeps_the_model_it_began_with(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    begun = live.current
    assert begun is not None
    before = begun.predictor.scores(GREY)[1]
    world.promote(world.publish())
    live.refresh()
    assert answering(live) == 2
    assert (begun.predictor.scores(GREY)[1] == before).all()
    live.stop()


def test_the_server_stops_following_when_told(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.start()
    live.stop()
    world.promote(world.publish())
    time.sleep(0.1)
    assert answering(live) == 1
    assert "thaw-follow" not in [thread.name for thread in threading.enumerate()]


# --- what fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "artifact.json", "card.md"])
def test_a_broken_champion_leaves_the_old_one_and_says_so(world: World, file: str) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    world.publish()
    world.damage(2, file)
    world.promote(2)
    live.refresh()
    assert answering(live) == 1
    assert live.last_error is not None
    assert file in live.last_error
    live.refresh()
    assert live.last_error is not None, "it stays until another champion is tried"
    live.stop()


def test_a_later_good_champion_is_loaded_and_the_error_goes(world: World) -> None:
    for _ in range(3):
        world.publish()
    world.damage(2)
    live = world.live()
    for version, expected in ((1, 1), (2, 1), (3, 3)):
        world.promote(version)
        live.refresh()
        assert answering(live) == expected
        assert (live.last_error is not None) == (version == 2)
    live.stop()


def test_rolling_back_from_a_broken_champion_is_followed(world: World) -> None:
    world.publish()
    world.publish()
    world.damage(2)
    live = world.live()
    world.promote(1)
    live.refresh()
    world.promote(2)
    live.refresh()
    world.ledger.rollback("colours", who="test", why="broken")
    live.refresh()
    assert (answering(live), live.last_error) == (1, None)
    assert live.current is not None
    assert live.current.generation == 3
    live.stop()


def test_what_did_not_load_is_tried_again_but_not_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.promote(world.publish())
    place, away = world.bentoml_home / "models" / "colours", world.place / "away"
    place.rename(away)  # as a disk that is not mounted yet
    live = world.live()
    live.refresh()
    assert live.last_error is not None
    away.rename(place)
    live.refresh()
    assert live.current is None, "a broken champion must not keep a core busy"
    now = time.monotonic()
    monkeypatch.setattr("serving.live.time.monotonic", lambda: now + RETRY_SECONDS)
    live.refresh()
    assert (answering(live), live.last_error) == (1, None)
    live.stop()


def test_a_first_champion_that_is_broken_is_told_and_the_next_one_loads(world: World) -> None:
    world.publish()
    world.damage(1)
    world.promote(1)
    live = world.live()
    live.refresh()
    assert live.current is None
    assert live.last_error is not None
    world.promote(world.publish())
    live.refresh()
    assert (answering(live), live.last_error) == (2, None)
    live.stop()


def test_a_lost_model_store_is_told_not_raised(world: World) -> None:
    world.promote(world.publish())
    shutil.rmtree(world.bentoml_home)
    live = world.live()
    live.refresh()
    assert live.last_error is not None
    assert "BENTOML_HOME" in live.last_error
    live.stop()


def test_a_ledger_that_is_no_database_is_told_and_the_error_goes_with_its_cause(world: World, tmp_path: Path) -> None:
    other = tmp_path / "restored"
    other.mkdir()
    (other / FILE).write_bytes(b"half restored" * 1000)
    live = Live(other, device="cpu")
    live.refresh()
    assert live.last_error is not None
    (other / FILE).unlink()
    live.refresh()
    assert live.last_error is None
    live.stop()


def test_a_ledger_that_is_gone_is_told_until_it_is_back(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    world.ledger.close()
    away = world.home.rename(tmp_path / "away")
    for _ in range(2):
        live.refresh()
        live.report()
        assert live.last_error is not None
        assert f"expected the ledger at {world.home / FILE}, found none: going on with version 1" in live.last_error
        assert client_of(live).get("/v1/model").json()["last_swap"]["error"] == live.last_error
    assert not world.home.exists(), "a server creates no home"
    assert "replaced" not in caplog.text
    away.rename(world.home)
    live.refresh()
    assert (answering(live), live.last_error) == (1, None)
    live.stop()


def test_a_ledger_that_fails_for_a_while_does_not_leave_its_error_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()

    def locked(*_: object) -> None:
        raise OSError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "champion", locked)
        live.refresh()
    assert live.last_error == "OSError: database is locked"
    assert answering(live) == 1
    live.refresh()
    assert live.last_error is None
    live.stop()


# --- names --------------------------------------------------------------------------------------------


def test_with_several_names_one_must_be_given(world: World) -> None:
    for name in ("colours", "shapes"):
        world.promote(world.publish(name), name)
    unsure = world.live()
    unsure.refresh()
    assert unsure.current is None
    assert unsure.last_error is not None
    assert "colours, shapes" in unsure.last_error
    sure = world.live("shapes")
    sure.refresh()
    assert sure.current is not None
    assert sure.current.name == "shapes"
    for live in (unsure, sure):
        live.stop()


def test_a_second_name_does_not_stop_the_first_from_being_followed(world: World) -> None:
    world.promote(world.publish())
    live = world.live()
    live.refresh()
    world.promote(world.publish("shapes"), "shapes")
    world.promote(world.publish())
    live.refresh()
    assert (answering(live), live.last_error) == (2, None)
    assert live.current is not None
    assert live.current.name == "colours"
    live.stop()


def test_a_name_given_before_its_first_version_waits_for_it(world: World) -> None:
    world.promote(world.publish("shapes"), "shapes")
    live = world.live("colours")
    live.refresh()
    assert (live.current, live.last_error) == (None, None)
    world.promote(world.publish())
    live.refresh()
    assert answering(live) == 1
    live.stop()


def back_up(world: World, name: str = "backup.db") -> Path:
    copy = world.place / name
    with closing(sqlite3.connect(world.home / FILE)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def test_a_restored_ledger_is_followed_though_its_generations_were_seen_before(world: World) -> None:
    """Restored and promoted again between two looks: the same generation, another champion."""
    world.publish()
    world.publish()
    world.promote(1)
    copy = back_up(world)
    world.promote(2)
    live = world.live()
    live.refresh()
    assert (answering(live), live.current.generation if live.current else 0) == (2, 2)
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(world.home / FILE)) as target:
        source.backup(target)
    world.promote(1)
    live.refresh()
    assert (answering(live), live.current.generation if live.current else 0) == (1, 2)
    live.stop()


def test_another_file_put_in_the_ledgers_place_is_followed(world: World) -> None:
    """As a restored backup is. Servers would answer as the removed file says, and no rollback would reach them."""
    for _ in range(3):
        world.publish()
    world.promote(3)
    copy = back_up(world)
    world.promote(1)
    live = world.live()
    live.refresh()
    live.report()
    world.ledger.close()
    for rest in world.home.glob(f"{FILE}-*"):
        rest.unlink()
    copy.replace(world.home / FILE)
    live.refresh()
    live.report()
    assert (answering(live), live.last_error) == (3, None)
    with opened(world.home) as restored:
        assert [server.version for server in servers.running(restored, "colours")] == [3]
        restored.promote("colours", 2, who="test", why="")
        live.refresh()
        assert answering(live) == 2
    live.stop()
