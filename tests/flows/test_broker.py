"""The broker's patience, on the refusal of SQLite that it is there for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.server.utilities.messaging import Message, StopConsumer, memory

from flows import broker
from flows.prefect_server import BROKER, wait_for_the_database

REFUSALS = 5  # Prefect tries four times


class Counter:
    """Reads and then counts in one transaction; while `refusals` last, somebody writes in between."""

    def __init__(self, file: Path, refusals: int) -> None:
        self.ours, self.theirs = (sa.create_engine(f"sqlite:///{file}", isolation_level="AUTOCOMMIT") for _ in "ab")
        self.refusals, self.counted = refusals, 0
        with self.theirs.connect() as they:
            they.exec_driver_sql("pragma journal_mode = wal")
            they.exec_driver_sql("create table t (x)")

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        with self.ours.connect() as connection:
            connection.exec_driver_sql("pragma busy_timeout = 60000")
            connection.exec_driver_sql("begin deferred")
            try:
                yield connection
                connection.exec_driver_sql("commit")
            except BaseException:
                connection.exec_driver_sql("rollback")
                raise

    async def __call__(self, message: Message) -> None:
        if message.data == b"stop":
            raise StopConsumer(ack=True)
        with self.transaction() as connection:
            connection.exec_driver_sql("select * from t").all()
            if self.refusals:
                self.refusals -= 1
                with self.theirs.connect() as they:
                    they.exec_driver_sql("insert into t values (1)")
            connection.exec_driver_sql("insert into t values (2)")
        self.counted += 1


async def consumed(kind: type[memory.Consumer], handler: Any, letters: Path) -> list[Path]:
    """The dead letters after one event and the end."""
    topic = memory.Topic.by_name(letters.name)
    consumer = kind(letters.name, topic.subscribe(dead_letter_queue_path=letters), concurrency=1)
    for data in (b"event", b"stop"):
        await topic.publish(memory.MemoryMessage(data, {}))
    await consumer.run(handler)
    return list(letters.glob("*"))


@pytest.mark.parametrize(("kind", "counted", "lost"), [(memory.Consumer, 0, 1), (broker.Consumer, 1, 0)])
def test_an_event_is_not_lost_to_a_busy_database(
    kind: type[memory.Consumer], counted: int, lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.Topic, "_topics", {})
    handler = Counter(tmp_path / "events.db", REFUSALS)

    letters = asyncio.run(consumed(kind, handler, tmp_path / "letters"))

    assert (handler.counted, len(letters)) == (counted, lost)


def test_patience_ends_and_other_errors_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Topic, "_topics", {})
    monkeypatch.setattr(broker, "WAITS", (0.0, 0.0))
    tries: list[str] = []

    async def failing(message: Message) -> None:
        if message.data == b"stop":
            raise StopConsumer(ack=True)
        tries.append("value")
        raise ValueError

    assert len(asyncio.run(consumed(broker.Consumer, failing, tmp_path / "value"))) == 1
    assert len(tries) == 4, "Prefect's own tries"
    always = Counter(tmp_path / "always.db", 1000)
    assert len(asyncio.run(consumed(broker.Consumer, always, tmp_path / "busy"))) == 1
    assert 1000 - always.refusals == 4 * 3


@pytest.mark.parametrize(
    ("given", "broker"),
    [({}, "flows.broker"), ({BROKER: "prefect_redis.messaging"}, "prefect_redis.messaging"),
     ({"PREFECT_MESSAGING_BROKER": "prefect_redis.messaging"}, None)],
)  # fmt: skip
def test_a_broker_that_the_environment_names_stays(
    given: dict[str, str], broker: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr("os.environ", environment)

    wait_for_the_database()

    assert environment.get(BROKER) == broker
