"""Who is champion, since when, by whom and why.

Events are only ever appended. The one mutable thing is a champion row per name, changed by
compare-and-swap on its generation, in the same transaction as the event that says so. SQLite (WAL, synchronous
FULL) by default, PostgreSQL by URL. Works with every server down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from serving import database
from serving.errors import BadInput, Conflict
from serving.ledger_rows import (
    CHAMPIONS,
    TABLES,
    VERSIONS,
    Champion,
    Event,
    Version,
    champion_of,
    history_of,
    identity,
    now,
    record,
    removed_of,
    row_of,
    stored_version_of,
    version_of,
)

__all__ = ["Champion", "Event", "Ledger", "Version", "opened"]


class Ledger:
    """`place`: a home directory (SQLite file `ledger.db` in it) or a SQLAlchemy URL."""

    def __init__(self, place: Path | str, *, create: bool = True) -> None:
        self._engine = database.engine_of(place, create)
        with self._engine.begin() as connection:
            database.lock_until_commit(connection, "thaw tables")  # of two that create them at once one would fail
            TABLES.create_all(connection)
            self.id = identity(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A connection whose changes are kept together at the end, or not at all."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """On a database server: one holder per name among all hosts, released with its connection. On SQLite: nothing.

        A lock of the database's cannot be held beside SQLite's transactions; there, one host's file lock is enough.
        """
        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.begin() as connection:
            database.lock_until_commit(connection, f"thaw publish {name}")
            yield

    @contextmanager
    def _moving(self, name: str) -> Iterator[sa.Connection]:
        """A transaction in which nobody else makes a version of this name champion, or takes one away."""
        with self._engine.begin() as connection:
            database.lock_until_commit(connection, f"thaw champion {name}")
            yield connection

    @contextmanager
    def turn(self, key: str) -> Iterator[bool]:
        """Whether it is ours among all hosts, until the end or this process's; on SQLite always (see `locked`)."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # closed at the end, not kept in a pool: the lock goes with it
            yield database.try_lock(connection, key)

    # --- what is ------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Every name something was published under, sorted."""
        with self._engine.begin() as connection:
            return tuple(connection.scalars(sa.select(VERSIONS.c.name).distinct().order_by(VERSIONS.c.name)))

    def champion(self, name: str) -> Champion:
        with self._engine.begin() as connection:
            return champion_of(connection, name)

    def versions(self, name: str) -> tuple[Version, ...]:
        """Newest first."""
        query = sa.select(VERSIONS).where(VERSIONS.c.name == name).order_by(VERSIONS.c.version.desc())
        with self._engine.begin() as connection:
            return tuple(Version(**row) for row in connection.execute(query).mappings())

    def version(self, name: str, version: int) -> Version:
        """Raises BadInput if it was never published."""
        with self._engine.begin() as connection:
            return version_of(connection, name, version)

    def history(self, name: str) -> tuple[Event, ...]:
        """Every event of a name, oldest first."""
        with self._engine.begin() as connection:
            return history_of(connection, name)

    def last_champions(self, name: str, count: int) -> tuple[int, ...]:
        """The last versions that were served, newest first, each once."""
        moves = [event.version for event in self.history(name) if event.kind in ("promote", "rollback")]
        return tuple(dict.fromkeys(version for version in reversed(moves) if version is not None))[:count]

    def removed(self, name: str) -> set[int]:
        """The versions whose files were taken away."""
        with self._engine.begin() as connection:
            return removed_of(connection, name)

    # --- what happens -------------------------------------------------------------------------------

    def publish(self, name: str, version: int, digest: str, tag: str, verdict: str, who: str, why: str) -> Version:
        """Records a stored artifact. Raises Conflict if that version was taken meanwhile."""
        entry = Version(name, version, digest, tag, verdict, now())
        try:
            with self._engine.begin() as connection:
                connection.execute(VERSIONS.insert().values(**row_of(entry)))
                record(connection, name, "publish", version, digest, who, why)
        except sa.exc.IntegrityError:
            raise Conflict(f"{name}:{version} was published by somebody else meanwhile: publish again") from None
        return entry

    def note(self, name: str, version: int, kind: str, who: str, why: str) -> bool:
        """Records that a person is asked (`ask`), has refused (`refuse`), or drew fresh held-out pictures after this
        version (`draw`); nothing moves. False: recorded already.
        """
        with self._moving(name) as connection:
            entry = version_of(connection, name, version)
            told = [(event.kind, event.version, event.why) for event in history_of(connection, name)]
            if (kind, version, why) in told:
                return False
            record(connection, name, kind, version, entry.digest, who, why)
            return True

    def record_removal(self, entry: Version, who: str, why: str) -> None:
        """That a version's files are taken away. Raises Conflict for a champion."""
        with self._moving(entry.name) as connection:
            if champion_of(connection, entry.name).version == entry.version:
                raise Conflict(f"{entry.name}:{entry.version} is the champion: it stays")
            record(connection, entry.name, "remove", entry.version, entry.digest, who, why)

    def promote(
        self,
        name: str,
        version: int,
        *,
        who: str,
        why: str,
        expected_generation: int | None = None,
        override: bool = False,
        release_hold: bool = False,
    ) -> Champion:
        """Makes a published version the champion; one transaction.

        `override` allows a verdict other than PASSED and a held name; `release_hold` also ends the hold;
        `expected_generation` is the champion the decision was made against. Raises BadInput (not PASSED) or
        Conflict (held, or another champion meanwhile).
        """
        with self._moving(name) as connection:
            entry = stored_version_of(connection, name, version)
            current = champion_of(connection, name)
            _check_promotable(entry, current, expected_generation, override, release_hold)
            hold = current.hold and not release_hold
            if current.hold and release_hold:
                record(connection, name, "release", version, entry.digest, who, why)
            return _move(connection, current, entry, "promote", hold, who, why)

    def rollback_target(self, name: str, to: int | None = None) -> int:
        """The version a rollback would go to. Raises BadInput if no such champion was ever served."""
        with self._engine.begin() as connection:
            return _rollback_target(connection, name, to)

    def rollback(self, name: str, *, to: int | None = None, who: str, why: str) -> Champion:
        """Back to the champion served before this one (again: further back), or to `to`; puts the name on hold.

        Raises BadInput if no such champion was ever served.
        """
        with self._moving(name) as connection:
            current = champion_of(connection, name)
            entry = stored_version_of(connection, name, _rollback_target(connection, name, to))
            champion = _move(connection, current, entry, "rollback", True, who, why)
            record(connection, name, "hold", entry.version, entry.digest, who, why)
            return champion


def _served(events: tuple[Event, ...]) -> list[int]:
    """The champions one could go back through, the current one last.

    >>> events = [Event("", "m", kind, v, "", "", "") for kind, v in [("promote", 1), ("promote", 2), ("rollback", 1)]]
    >>> _served(tuple(events))
    [1]
    """
    served: list[int] = []
    for event in events:
        if event.kind == "promote" and event.version is not None:
            if served[-1:] != [event.version]:  # promoted again, e.g. to release a hold: nothing else was served
                served.append(event.version)
        elif event.kind == "rollback" and event.version is not None:
            served.pop()
            while served and served[-1] != event.version:
                served.pop()
    return served


def _rollback_target(connection: sa.Connection, name: str, to: int | None) -> int:
    earlier = _served(history_of(connection, name))[:-1]
    if not earlier or (to is not None and to not in earlier):
        found = ", ".join(map(str, earlier)) or "none"
        wanted = "an earlier champion" if to is None else f"version {to} among the earlier champions"
        raise BadInput(f"expected {wanted} of {name}, found {found}: see `thaw show {name}`")
    return earlier[-1] if to is None else to


def _check_promotable(
    entry: Version, current: Champion, expected_generation: int | None, override: bool, release_hold: bool
) -> None:
    label = f"{entry.name}:{entry.version}"
    if entry.verdict != "PASSED" and not override:
        raise BadInput(f'expected verdict PASSED, found {entry.verdict} for {label}: retrain, or --override "reason"')
    if current.hold and not (override or release_hold):
        raise Conflict(f"{entry.name} is on hold since a rollback: promote with --release-hold when it is understood")
    if expected_generation is not None and current.generation != expected_generation:
        raise Conflict(
            f"{label} was certified against champion generation {expected_generation}, "
            f"found {current.generation}: certify again"
        )


def _move(
    connection: sa.Connection, current: Champion, entry: Version, kind: str, hold: bool, who: str, why: str
) -> Champion:
    """Compare-and-swap of the champion row, with its event."""
    champion = Champion(entry.name, entry.version, current.generation + 1, hold)
    try:
        if current.generation == 0:
            connection.execute(CHAMPIONS.insert().values(**row_of(champion)))
            moved = 1
        else:
            same = (CHAMPIONS.c.name == entry.name) & (CHAMPIONS.c.generation == current.generation)
            moved = connection.execute(CHAMPIONS.update().where(same).values(**row_of(champion))).rowcount
    except sa.exc.IntegrityError:
        moved = 0
    if moved != 1:
        raise Conflict(f"the champion of {entry.name} changed meanwhile: see `thaw show {entry.name}`, then decide")
    record(connection, entry.name, kind, entry.version, entry.digest, who, why)
    return champion


@contextmanager
def opened(place: Path | str, *, create: bool = True) -> Iterator[Ledger]:
    """A ledger that is closed again."""
    ledger = Ledger(place, create=create)
    try:
        yield ledger
    finally:
        ledger.close()
