"""Clients that cost little, so that two cores are the server's: raw HTTP/1.1 on asyncio, requests made beforehand."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

BROKEN = 0  # as a status: the connection ended, or never came to be, before the whole answer was there
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answered:
    """`status` 0: no answer. `fresh`: the connection had not served before, so nothing shows that it was accepted."""

    sent: float
    seconds: float
    status: int
    fresh: bool


class Connection(asyncio.Protocol):
    """One keep-alive connection; `ask` sends a request and waits for its answer."""

    def __init__(self) -> None:
        self.usable, self.served = True, 0
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length and self._answer and not self._answer.done():
            self.usable &= b"connection: close" not in lower
            self._received = b""
            self.served += 1
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.usable = False
        if self._answer and not self._answer.done():
            self._answer.set_result(BROKEN)

    async def ask(self, request: bytes) -> int:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._answer, TIMEOUT_SECONDS)
        except TimeoutError:
            self.close()
            return BROKEN

    def write(self, data: bytes) -> None:
        """Bytes that no answer is waited for."""
        self._transport.write(data)

    def close(self) -> None:
        self.usable = False
        self._transport.close()


class Clients:
    """A pool of connections to one server."""

    def __init__(self, url: str, body: bytes) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._place = (host, int(port))
        headers = (f"Host: {host}", "Content-Type: image/jpeg", f"Content-Length: {len(body)}")
        self.request = "\r\n".join(["POST /v1/predict HTTP/1.1", *headers, "", ""]).encode() + body
        self.answers: list[Answered] = []
        self._idle: list[Connection] = []

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *self._place)
        return connection

    async def ask(self) -> Answered:
        """One request on an idle connection, or on a new one."""
        sent = time.monotonic()
        self._idle = [connection for connection in self._idle if connection.usable]
        fresh = not self._idle
        try:
            connection = self._idle.pop() if self._idle else await self.connect()
            fresh = not connection.served
            status = await connection.ask(self.request)
            if connection.usable:
                self._idle.append(connection)
        except OSError:
            status = BROKEN
        answered = Answered(sent, time.monotonic() - sent, status, fresh)
        self.answers.append(answered)
        return answered

    async def open_loop(self, rate: float, seconds: float, seed: int = 0) -> None:
        """Requests at random times, so many a second whether answers come or not: as of clients that do not meet."""
        chance, end, due = random.Random(seed), time.monotonic() + seconds, time.monotonic()
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(rate)) < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self.ask())

    async def closed_loop(self, clients: int, goes_on: Callable[[], bool]) -> None:
        """So many clients, each asking again as soon as it has its answer."""

        async def client() -> None:
            while goes_on():
                if (await self.ask()).status == BROKEN:
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def stall(self, count: int) -> list[Connection]:
        """Connections that sent half a request and nothing more."""
        stalled = [await self.connect() for _ in range(count)]
        for connection in stalled:
            connection.write(self.request[: len(self.request) // 2])
        return stalled

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


run = uvloop.run
