"""The ledger's tables, and reading and writing their rows; what may be written when is `serving/ledger.py`'s."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from serving.errors import BadInput

SCHEMA = "1"

TABLES = sa.MetaData()
META = sa.Table("meta", TABLES, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String))
VERSIONS = sa.Table(
    "versions",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("tag", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("published_at", sa.String, nullable=False),
)
CHAMPIONS = sa.Table(
    "champions",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("hold", sa.Boolean, nullable=False),
)
EVENTS = sa.Table(
    "events",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    # publish, ask, refuse, promote, rollback, hold, release, remove, draw
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("digest", sa.String),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
)
SERVERS = sa.Table(  # what `serving/servers.py` keeps: the present only, no history
    "servers",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("place", sa.String, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("provider", sa.String),
    sa.Column("error", sa.String),
    sa.Column("seen_at", sa.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Version:
    name: str
    version: int
    digest: str
    tag: str
    verdict: str
    published_at: str


@dataclass(frozen=True, slots=True)
class Champion:
    """`generation` grows by one with every promotion or rollback; 0 means there is no champion yet."""

    name: str
    version: int | None
    generation: int
    hold: bool


@dataclass(frozen=True, slots=True)
class Event:
    at: str
    name: str
    kind: str
    version: int | None
    digest: str | None
    who: str
    why: str


def identity(connection: sa.Connection) -> str:
    """This ledger's own id, made once; labels its entries in a model store that others share."""
    query = sa.select(META.c.value).where(META.c.key == "id")
    found = connection.scalar(query)
    if found is None:
        found = uuid.uuid4().hex[:8]
        connection.execute(META.insert().values([{"key": "id", "value": found}, {"key": "schema", "value": SCHEMA}]))
    return str(found)


def champion_of(connection: sa.Connection, name: str) -> Champion:
    row = connection.execute(sa.select(CHAMPIONS).where(CHAMPIONS.c.name == name)).mappings().first()
    return Champion(**row) if row else Champion(name, None, 0, False)


def version_of(connection: sa.Connection, name: str, version: int) -> Version:
    query = sa.select(VERSIONS).where(VERSIONS.c.name == name, VERSIONS.c.version == version)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise BadInput(f"expected a published version, found no {name}:{version}: see `thaw show`")
    return Version(**row)


def history_of(connection: sa.Connection, name: str) -> tuple[Event, ...]:
    query = sa.select(EVENTS).where(EVENTS.c.name == name).order_by(EVENTS.c.id)
    rows = connection.execute(query).mappings()
    return tuple(Event(**{key: value for key, value in row.items() if key != "id"}) for row in rows)


def removed_of(connection: sa.Connection, name: str) -> set[int]:
    """The versions whose files were taken away."""
    events = history_of(connection, name)
    return {event.version for event in events if event.kind == "remove" and event.version is not None}


def stored_version_of(connection: sa.Connection, name: str, version: int) -> Version:
    """Raises BadInput for a version that was never published, or whose files were taken away."""
    entry = version_of(connection, name, version)
    if version in removed_of(connection, name):
        raise BadInput(f"expected a version in the model store, found {name}:{version} removed: see `thaw show {name}`")
    return entry


def record(connection: sa.Connection, name: str, kind: str, version: int, digest: str, who: str, why: str) -> None:
    event = Event(now(), name, kind, version, digest, who, why)
    connection.execute(EVENTS.insert().values(**row_of(event)))


def row_of(value: Any) -> dict[str, Any]:
    """Columns and values of a dataclass with slots."""
    return {field: getattr(value, field) for field in value.__slots__}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
