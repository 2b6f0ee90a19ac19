"""Prefect's message broker in memory, with patience for a database that is busy: `thaw up` gives it to its server.

On SQLite, an event that moves an automation on is read and counted in one transaction, and SQLite refuses the write at
once, whatever its busy_timeout, when another connection wrote in between. Prefect tries such an event four times within
some ten milliseconds and then puts it away for good; what follows it in the same run then waits for 15 minutes, so
that a question which nobody answered stays open. Prefect's setting PREFECT_SERVER_EVENTS_MESSAGING_BROKER names a
module like this one. Figures: docs/decisions/0011-prefect-on-sqlite.md.
"""

from __future__ import annotations

import asyncio

from prefect.server.utilities.messaging import Message, MessageHandler, memory
from prefect.server.utilities.messaging.memory import Publisher, break_topic, ephemeral_subscription
from sqlalchemy.exc import OperationalError

__all__ = ["Consumer", "Publisher", "break_topic", "ephemeral_subscription"]

WAITS = tuple(0.05 * 2**turn for turn in range(9))  # seconds between the tries: 25 s in all, then Prefect's own


class Consumer(memory.Consumer):
    async def run(self, handler: MessageHandler) -> None:
        async def patient(message: Message) -> None:
            for wait in WAITS:
                try:
                    return await handler(message)
                except OperationalError:
                    await asyncio.sleep(wait)
            return await handler(message)

        await super().run(patient)
