"""What is no body is bounded in bytes and seconds, and refused in the edge's one shape, in its turn."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serving import heads
from serving.heads import MAX_BYTES, BoundedHeads

HOST = ("127.0.0.1", 0)
BEGIN = b"POST /length HTTP/1.1\r\nHost: x\r\n"
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}
Client = Callable[[], socket.socket]


async def length(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:
        return PlainTextResponse("for nobody")


async def at_once(request: Request) -> PlainTextResponse:
    """Without a look at the body; ends the connection if asked to."""
    return PlainTextResponse("done", headers={"Connection": "close"} if request.query_params else None)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Opens connections to a real uvicorn, whose clients have half a second for a head."""
    monkeypatch.setattr(heads, "SECONDS", 0.5)
    monkeypatch.setattr(heads, "LINGER_SECONDS", 0.2)
    routes = [Route("/length", length, methods=["POST"]), Route("/at-once", at_once, methods=["POST"])]
    app = Starlette(routes=routes)
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


def answers(found: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each."""
    heads_and_bodies = [answer.split(b"\r\n\r\n", 1) for answer in found.split(b"HTTP/1.1 ")[1:]]
    return [(int(head.split()[0]), body) for head, body in heads_and_bodies]


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


# --- after the head -----------------------------------------------------------------------------------

CHUNKED = BEGIN + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("begun", [CHUNKED + b"0\r\n", CHUNKED + b"1;"], ids=["trailers", "chunk extension"])
@pytest.mark.parametrize("path", [b"/length", b"/at-once"])
def test_what_follows_a_head_and_is_no_body_is_bounded(client: Client, path: bytes, begun: bytes) -> None:
    endless = b"a: " + b"b" * 1000 + b"\r\n" if begun.endswith(b"\n") else b"b" * 1000
    with client() as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(begun.replace(b"/length", path))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            connection.sendall(endless * 100)
    with client() as connection:
        connection.sendall(begun.replace(b"/length", path) + b"b" * (MAX_BYTES + 2**18))
        assert answers(whole(connection))[-1][0] == 431


def test_a_body_in_many_chunks_with_trailers_is_whole(client: Client) -> None:
    with client() as connection:
        chunks = (b"400;a=b\r\n" + b"x" * 1024 + b"\r\n") * 4096
        connection.sendall(CHUNKED + chunks + b"0\r\nA: b\r\n\r\n" + BEGIN + b"Connection: close\r\n\r\n")
        assert answers(whole(connection)) == [(200, b"%d" % 2**22), (200, b"0")]


@pytest.mark.parametrize("later", [b"x", b"x" * 1000 + b"\r\n"], ids=["body", "nothing yet"])
def test_a_connection_is_not_held_after_an_answer(client: Client, later: bytes) -> None:
    """The rest of a body that nobody waits for, or the blank line that a next request may begin with."""
    with client() as connection:
        connection.sendall(b"POST /at-once HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert connection.recv(1000).endswith(b"done")
        started = time.monotonic()
        connection.sendall(later)
        assert whole(connection) == b""
        assert time.monotonic() - started < 3


# --- offers to upgrade --------------------------------------------------------------------------------


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["one piece", "pieces"])
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_a_body(client: Client, offer: bytes, pause: float) -> None:
    body = BEGIN + b"Content-Length: 0\r\n\r\n"  # taken for a request, it would be answered
    sized = offer + b"Content-Length: %d\r\n\r\n" % len(body)
    chunked = offer + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    last = BEGIN + offer + b"Content-Length: 1\r\nConnection: close\r\n\r\nx"
    with client() as connection:
        for piece in (
            BEGIN + sized[:9],
            sized[9:],
            body,
            BEGIN + chunked,
            body,
            b"\r\n0\r\n\r\n",
            BEGIN + sized,
            body,
            last,
        ):
            connection.sendall(piece)
            time.sleep(pause)
        assert answers(whole(connection)) == [(200, b"%d" % len(body))] * 3 + [(200, b"1")]


@pytest.mark.parametrize(
    "head", [b"CONNECT x:443 HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["connect", "h2"]
)
def test_what_is_not_for_this_server_is_refused(client: Client, head: bytes) -> None:
    with client() as connection:
        connection.sendall(head)
        assert error_of(whole(connection)) == (400, "invalid_request")


# --- the end of a connection --------------------------------------------------------------------------

THREE = BEGIN + b"Content-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize("earlier", [0, 1, 2])
@pytest.mark.parametrize("garbage", [b"GARBAGE\x00\x01\r\n\r\n", CHUNKED + b"no size\r\n"], ids=["head", "body"])
def test_garbage_is_refused_after_the_requests_before_it(
    client: Client, earlier: int, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with client() as connection:
        connection.sendall(THREE * earlier + garbage)
        found = answers(whole(connection))
    assert found[:-1] == [(200, b"3")] * earlier
    assert found[-1][0] == 400
    assert b"expected a request in HTTP/1.1" in found[-1][1]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_who_still_sends_when_the_answer_comes_can_read_it(client: Client) -> None:
    with client() as connection:
        port = connection.getpeername()[1]
    for _ in range(5):
        uploading = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        uploading.request("POST", "/at-once?close", b"x" * (40 * 2**20))
        assert uploading.getresponse().read() == b"done"
        uploading.close()


def test_who_goes_on_sending_after_the_end_is_cut_off(client: Client) -> None:
    with client() as connection:
        connection.sendall(b"POST /at-once?close HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() - started < 5:
                connection.sendall(b"x" * 1000)
        assert time.monotonic() - started > 0.4
