"""What comes before a body is bounded in bytes and seconds, and refused in the edge's one shape."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serving import heads
from serving.heads import MAX_BYTES, BoundedHeads

HOST = ("127.0.0.1", 0)
BEGIN = b"POST /length HTTP/1.1\r\nHost: x\r\n"
Client = Callable[[], socket.socket]


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Opens connections to a real uvicorn, whose clients have half a second for a head."""
    monkeypatch.setattr(heads, "SECONDS", 0.5)
    monkeypatch.setattr(heads, "LINGER_SECONDS", 0.2)
    app = Starlette(routes=[Route("/length", length, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHeads, log_config=None, lifespan="off"))
    with socket.create_server(HOST) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield lambda: socket.create_connection(listening.getsockname(), timeout=10)
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def whole(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:  # it had more to read when it closed
        pass
    return found


def error_of(answer: bytes) -> tuple[int, str]:
    head, body = answer.split(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_a_body_of_any_size_and_pace_is_not_touched(client: Client) -> None:
    with client() as connection:
        for size in (0, 5, 4 * MAX_BYTES):
            connection.sendall(BEGIN + b"Content-Length: %d\r\n\r\n" % size + b"x" * (size // 2))
            time.sleep(0.7 if size == 5 else 0)
            connection.sendall(b"x" * (size - size // 2))
            answer = b""
            while not answer.endswith(b"\r\n\r\n%d" % size):
                answer += connection.recv(1000)


@pytest.mark.parametrize("endless", [b"a: " + b"b" * 1000 + b"\r\n", b"b" * 1000], ids=["lines", "one line"])
def test_headers_without_end_are_refused(client: Client, endless: bytes) -> None:
    with client() as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(BEGIN + b"a: ")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            connection.sendall(endless * 100)
    with client() as connection:
        connection.sendall(BEGIN + b"a: " + b"b" * (MAX_BYTES + 1))
        assert error_of(whole(connection)) == (431, "too_large")


@pytest.mark.parametrize("begun", [b"", b"P", BEGIN, BEGIN + b"Content-Length: 3\r\n"], ids=len)
def test_a_head_that_does_not_come_ends_the_connection(client: Client, begun: bytes) -> None:
    with client() as connection:
        started = time.monotonic()
        connection.sendall(begun)
        assert whole(connection) == b""
        assert 0.4 < time.monotonic() - started < 5


def test_the_second_head_of_a_connection_is_awaited_as_long(client: Client) -> None:
    with client() as connection:
        connection.sendall(BEGIN + b"Content-Length: 0\r\n\r\n")
        assert connection.recv(1000).endswith(b"\r\n\r\n0")
        connection.sendall(BEGIN)
        started = time.monotonic()
        assert whole(connection) == b""
        assert 0.4 < time.monotonic() - started < 3


def test_what_is_no_http_is_refused_in_the_edges_shape(client: Client) -> None:
    with client() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert error_of(whole(connection)) == (400, "invalid_request")
