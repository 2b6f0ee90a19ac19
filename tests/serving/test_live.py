"""A server follows the ledger: the first champion, the next, the way back; what does not load changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import artifact as artifacts
from serving.ledger import Ledger
from serving.live import Live
from serving.store import Store
from tests.serving.tiny import make_artifact


@pytest.fixture
def live(home: Path, bentoml_home: Path) -> Iterator[Live]:
    follower = Live(home, device="cpu", poll_seconds=0.05)
    yield follower
    follower.stop()


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    book = Ledger(home)
    yield book
    book.close()


def publish(home: Path, ledger: Ledger, place: Path, bias: float, name: str = "colours") -> int:
    source = make_artifact(place / f"{name}-{bias}", name=name, bias=bias)
    return Store(home, ledger).publish(source, "tester", "test").version


def promote(ledger: Ledger, version: int) -> None:
    ledger.promote("colours", version, who="tester", why="test")


def answering(live: Live) -> int | None:
    live.refresh()
    return live.current.version if live.current else None


def test_nothing_published_is_no_error_and_creates_nothing(tmp_path: Path) -> None:
    follower = Live(tmp_path / "nowhere", device="cpu")
    assert answering(follower) is None
    assert follower.last_error is None
    assert not (tmp_path / "nowhere").exists()


def test_it_follows_promotions_and_the_way_back(live: Live, ledger: Ledger, home: Path, tmp_path: Path) -> None:
    versions = [publish(home, ledger, tmp_path, bias) for bias in (0.0, 1.0)]
    assert answering(live) is None, "published is not promoted"
    for version in versions:
        promote(ledger, version)
        assert answering(live) == version
    ledger.rollback("colours", who="tester", why="test")
    assert answering(live) == versions[0]
    assert live.current is not None and live.current.generation == 3


def test_a_champion_that_does_not_load_keeps_the_old_one(
    live: Live, ledger: Ledger, home: Path, bentoml_home: Path, tmp_path: Path
) -> None:
    good, broken, better = (publish(home, ledger, tmp_path, bias) for bias in (0.0, 1.0, 2.0))
    promote(ledger, good)
    assert answering(live) == good
    (model,) = (bentoml_home / "models" / "colours" / f"{ledger.id}-{broken}").glob(artifacts.MODEL)
    model.write_bytes(model.read_bytes()[:-1])
    promote(ledger, broken)
    assert answering(live) == good
    assert live.last_error is not None and "sha256" in live.last_error
    promote(ledger, better)
    assert answering(live) == better
    assert live.last_error is None


def test_a_request_keeps_the_model_it_began_with(live: Live, ledger: Ledger, home: Path, tmp_path: Path) -> None:
    first, second = (publish(home, ledger, tmp_path, bias) for bias in (0.0, 40.0))
    promote(ledger, first)
    answering(live)
    begun = live.current
    promote(ledger, second)
    assert answering(live) == second
    assert begun is not None and live.current is not None
    pixels = artifacts.golden_inputs(begun.predictor.preprocessing.image_size)
    before, after = (loaded.predictor.scores(pixels)[0] for loaded in (begun, live.current))
    assert before.shape == after.shape
    assert abs(before - after).max() > 0.1


def test_several_models_and_no_name_is_said(live: Live, ledger: Ledger, home: Path, tmp_path: Path) -> None:
    for name in ("colours", "shapes"):
        version = publish(home, ledger, tmp_path, 0.0, name)
        ledger.promote(name, version, who="tester", why="test")
    assert answering(live) is None
    assert live.last_error is not None and "colours, shapes" in live.last_error
    named = Live(home, name="shapes", device="cpu")
    assert answering(named) == 1
    named.stop()


def test_the_thread_follows_by_itself(live: Live, ledger: Ledger, home: Path, tmp_path: Path) -> None:
    live.start()
    promote(ledger, publish(home, ledger, tmp_path, 0.0))
    for _ in range(200):
        if live.current is not None:
            break
        live._stop.wait(0.05)
    assert live.current is not None and live.current.version == 1


def test_what_did_not_load_is_tried_again(
    live: Live, ledger: Ledger, home: Path, bentoml_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(home, ledger, tmp_path, 0.0)
    promote(ledger, version)
    place, away = bentoml_home / "models" / "colours", tmp_path / "away"
    place.rename(away)  # as a disk that is not mounted yet
    assert answering(live) is None and live.last_error is not None
    away.rename(place)
    assert answering(live) is None, "not at once: a broken champion must not keep a core busy"
    monkeypatch.setattr("serving.live.RETRY_SECONDS", 0.0)
    live._retry_at = 0.0
    assert answering(live) == version
