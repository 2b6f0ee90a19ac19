"""The ledger's database: SQLite (WAL, synchronous FULL) in a home, or PostgreSQL by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from serving.errors import BadInput

FILE = "ledger.db"


def engine_of(place: Path | str, create: bool) -> sa.Engine:
    """`place`: a home directory, or a SQLAlchemy URL. Raises BadInput: no such URL, or no file and not `create`."""
    url = _place_url(place)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, create)
    return sa.create_engine(url, pool_pre_ping=True)  # a database that was restarted is asked anew


def is_there(place: Path | str) -> bool:
    """Whether there is a ledger to ask: SQLite's file; a database server's is made when it is asked."""
    url = _place_url(place)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


def file_identity(place: Path | str) -> tuple[int, int] | None:
    """Device and inode of a SQLite ledger's file: another one was put in its place when these change.

    None of PostgreSQL, and while there is no file.
    """
    file = file_of(place)
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def file_of(place: Path | str) -> Path | None:
    """A SQLite ledger's file, whether or not it is there; None of PostgreSQL."""
    url = _place_url(place)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _place_url(place: Path | str) -> sa.URL:
    return sa.URL.create("sqlite", database=str(place / FILE)) if isinstance(place, Path) else _url_of(place)


def _url_of(text: str) -> sa.URL:
    """Raises BadInput for what is no URL of a database that is supported."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # the latter of a port that is no number
        raise BadInput("expected a SQLAlchemy URL as THAW_LEDGER, found another text: correct it") from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"):
        raise BadInput(f"expected a sqlite or postgresql URL as THAW_LEDGER, found {url.drivername}: correct it")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def lock_until_commit(connection: sa.Connection, key: str) -> None:
    """PostgreSQL's advisory lock; SQLite's transactions exclude each other anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})


def try_lock(connection: sa.Connection, key: str) -> bool:
    """PostgreSQL's advisory lock for as long as this connection lives; False if another one holds it.

    On SQLite always True: there one host's file lock is enough.
    """
    if connection.dialect.name != "postgresql":
        return True
    query = sa.text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))")
    return bool(connection.scalar(query, {"key": key}))


def _sqlite_engine(url: sa.URL, create: bool) -> sa.Engine:
    path = Path(url.database or "")
    if not create and not path.is_file():
        raise BadInput(f"expected a ledger at {path}, found none: nothing was published there yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _configure_sqlite(connection: Any, _pool_record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy says BEGIN, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    """Takes the write lock first: a reader that turns writer midway would deadlock with another one."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
