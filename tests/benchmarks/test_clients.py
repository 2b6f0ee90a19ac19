"""The drills' clients against a small server: statuses are seen, broken connections counted, rates kept."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks import clients
from benchmarks.clients import BROKEN, Clients, run

BODY = b"x" * 50_000


@dataclass
class Small:
    """Answers with what `statuses` says next, 200 when that is empty."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    closing: bool = False
    bodies: list[int] = field(default_factory=list)
    peers: set[int] = field(default_factory=set)

    async def answer(self, request: Request) -> Response:
        assert request.client is not None
        self.peers.add(request.client.port)
        self.bodies.append(len(await request.body()))
        status = self.statuses.pop(0) if self.statuses else 200
        return PlainTextResponse("an answer", status, {"Connection": "close"} if self.closing else {})


@pytest.fixture
def small() -> Iterator[Small]:
    found = Small()
    app = Starlette(routes=[Route("/v1/predict", found.answer, methods=["POST"])])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        found.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        yield found
        server.should_exit = True
        thread.join()


def in_turn(client: Clients, count: int) -> list[int]:
    async def ask() -> list[int]:
        found = [(await client.ask()).status for _ in range(count)]
        client.close()
        return found

    return run(ask())


def test_statuses_are_the_servers_and_the_connection_is_kept(small: Small) -> None:
    small.statuses = [200, 429, 503, 200, 415]
    client = Clients(small.url, BODY)
    assert in_turn(client, 5) == [200, 429, 503, 200, 415]
    assert small.bodies == [len(BODY)] * 5, "each request was whole"
    assert len(small.peers) == 1
    assert [answer.fresh for answer in client.answers] == [True, False, False, False, False]


def test_a_connection_that_the_server_closes_is_not_used_again(small: Small) -> None:
    small.closing = True
    client = Clients(small.url, BODY)
    assert in_turn(client, 3) == [200, 200, 200]
    assert len(small.peers) == 3
    assert all(answer.fresh for answer in client.answers)


@pytest.fixture
def careless() -> Iterator[str]:
    """Reads something, answers the first request of each connection, and hangs up during the second."""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            for length in (2, 9):
                left = len(request)
                while left > 0 and (data := connection.recv(65536)):
                    left -= len(data)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nok" % length)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        request = Clients(url, BODY).request

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.settimeout(10)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield url
        stop.set()
        thread.join()


def test_an_answer_that_breaks_off_is_counted_and_was_on_a_connection_that_had_served(careless: str) -> None:
    client = Clients(careless, BODY)
    assert in_turn(client, 4) == [200, BROKEN, 200, BROKEN]
    assert [answer.fresh for answer in client.answers] == [True, False, True, False]


def test_nobody_there_is_broken_and_fresh() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    client = Clients(url, BODY)
    assert in_turn(client, 2) == [BROKEN, BROKEN]
    assert all(answer.fresh for answer in client.answers)


def test_an_answer_that_never_comes_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Clients(f"http://127.0.0.1:{silent.getsockname()[1]}", BODY)
        assert in_turn(client, 1) == [BROKEN]
    assert client.answers[0].seconds >= 0.15  # event loops round their clock


@pytest.mark.parametrize("rate", [50.0, 200.0])
def test_the_open_loop_keeps_its_rate(small: Small, rate: float) -> None:
    client = Clients(small.url, b"x")
    begun = time.monotonic()
    run(client.open_loop(rate, 2.0))
    assert 1.5 < time.monotonic() - begun < 10
    assert len(client.answers) == pytest.approx(2 * rate, rel=0.3)
    assert Counter(answer.status for answer in client.answers) == {200: len(client.answers)}
    gaps = sorted(answer.sent for answer in client.answers)
    assert len({round(b - a, 4) for a, b in itertools.pairwise(gaps)}) > 10, "at random times"


def test_the_open_loop_does_not_wait_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at all, and as many are sent."""
    monkeypatch.setattr(clients, "TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        client = Clients(f"http://127.0.0.1:{silent.getsockname()[1]}", b"x")
        run(client.open_loop(50.0, 1.0))
    assert len(client.answers) == pytest.approx(50, rel=0.3)
    assert {answer.status for answer in client.answers} == {BROKEN}


def test_the_closed_loop_keeps_as_many_connections_as_clients(small: Small) -> None:
    client = Clients(small.url, BODY)
    run(client.closed_loop(3, lambda: len(client.answers) < 60))
    assert 60 <= len(client.answers) <= 62
    assert len(small.peers) == 3
    assert sum(answer.fresh for answer in client.answers) == 3


def test_stalled_connections_send_half_and_are_not_answered(small: Small) -> None:
    client = Clients(small.url, BODY)

    async def scenario() -> list[bool]:
        stalled = await client.stall(5)
        await asyncio.sleep(0.3)
        usable = [connection.usable for connection in stalled]
        assert (await client.ask()).status == 200, "others are answered meanwhile"
        for connection in stalled:
            connection.close()
        client.close()
        return usable

    assert run(scenario()) == [True] * 5
    assert small.bodies == [len(BODY)]
