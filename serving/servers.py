"""Which servers are running and what each answers with, as they report it to the ledger.

A server writes its row when something changes and every few seconds; one that stops takes its row away, one that was
killed is no longer counted once its row is old. Hosts that share a ledger need clocks that agree within seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from serving.ledger import Ledger
from serving.ledger_rows import SERVERS, row_of

REPORT_SECONDS = 5.0
ALIVE_SECONDS = 15.0
_FORGOTTEN_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Server:
    """One server process. `version` and `provider` are None, `generation` 0, while it has nothing to answer with."""

    id: str
    name: str
    place: str  # host:process id
    version: int | None
    generation: int
    provider: str | None
    error: str | None  # of its last attempt to load a champion
    seen_at: float  # Unix time


def report(ledger: Ledger, server: Server) -> None:
    """Writes or replaces the server's row."""
    with ledger.transaction() as connection:
        old = SERVERS.c.seen_at < server.seen_at - _FORGOTTEN_SECONDS
        connection.execute(SERVERS.delete().where((SERVERS.c.id == server.id) | old))
        connection.execute(SERVERS.insert().values(**row_of(server)))


def leave(ledger: Ledger, server_id: str) -> None:
    """Takes the server's row away."""
    with ledger.transaction() as connection:
        connection.execute(SERVERS.delete().where(SERVERS.c.id == server_id))


def running(ledger: Ledger, name: str) -> tuple[Server, ...]:
    """The servers of a name that were heard of in the last 15 seconds, by place."""
    alive = SERVERS.c.seen_at >= time.time() - ALIVE_SECONDS
    query = sa.select(SERVERS).where(SERVERS.c.name == name, alive).order_by(SERVERS.c.place)
    with ledger.transaction() as connection:
        return tuple(Server(**row) for row in connection.execute(query).mappings())
