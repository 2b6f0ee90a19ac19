"""Bounds on what is no body: a request's line, headers, trailers and chunk extensions, in bytes and in seconds.

uvicorn has none: one connection could send header lines without end, or stay half-way through them for ever, before
any route, token or limit is looked at. And it takes the body of a request that offers an upgrade for something else,
answers garbage before the request that came first, and closes connections while their client still sends.
"""

from __future__ import annotations

import asyncio
import json

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_BYTES = 2**19  # a read gives up to 2**18 at once, in which the body may have begun
SECONDS = 20.0
LINGER_SECONDS = 1.0  # closed at once, with bytes unread, the system would take the refusal back
NO_HTTP = "expected a request in HTTP/1.1, found none: check the address, and that it begins with http://, not https://"


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, one a connection; its own refusals have the edge's one shape."""

    _deadline: asyncio.TimerHandle | None = None  # while a head is awaited, or the client's end of the connection
    _received = 0  # bytes since a head began, ended, or a piece of a body came
    _ended = False  # nothing that comes is read any more
    _refusal = b""  # while earlier requests of the connection are still to be answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        if self._received > MAX_BYTES:
            self._refuse(431, "too_large", f"expected at most {MAX_BYTES} bytes of headers: send fewer or shorter ones")
            return
        try:
            self._parse(memoryview(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the latter of CONNECT only
            self._refuse(400, "invalid_request", NO_HTTP)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:  # not the connection's first
            self._await_head()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # it comes once more, without the offer
            return
        self._wait_no_more()
        super().on_headers_complete()
        self.cycle.transport = _Answers(self)

    def on_body(self, body: bytes) -> None:
        self._received = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self._ended:
            self._unset_keepalive_if_required()
            if self._refusal and last and not self.transport.is_closing():
                self._part(LINGER_SECONDS)
        elif self.cycle.response_complete and self._deadline is None:  # a byte ends uvicorn's own wait for a head
            self._await_head()

    def end(self) -> None:
        """An answer's end of the connection: what is left of its request is read until the client has done, too."""
        if self.cycle.more_body and not (self.pipeline or self._ended or self.transport.is_closing()):
            self._ended = True
            self._part(SECONDS)
        else:
            self.transport.close()

    def _parse(self, data: memoryview) -> None:
        """Ignores offers to upgrade, as a server may, with the request that makes one read as any other.

        httptools takes all that follows such a head for another protocol, the request's own body included.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            headers = b"".join(b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade")
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(line + headers + b"\r\n")

    def _await_head(self) -> None:
        self._received = 0
        self._deadline = self.loop.call_later(SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        self._received = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answers what is no request, in its turn, and ends the connection."""
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._refusal = STATUS_LINE[status] + head + body
        self._ended = True
        self._wait_no_more()
        earlier = self.cycle is not None and not self.cycle.response_complete
        if earlier and self.cycle.more_body:  # it is this one's body that is refused
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            earlier = bool(self.pipeline)
            if earlier:
                self.pipeline.popleft()
        if not earlier:
            self._part(LINGER_SECONDS)

    def _part(self, seconds: float) -> None:
        """Says what is to be said and no more; the client, who reads that, ends the connection, or time does."""
        self.transport.write(self._refusal)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(seconds, self.transport.close)


class _Answers(asyncio.Transport):
    """A connection as an answer sees it: who still sends when it is closed would lose the answer."""

    def __init__(self, connection: BoundedHeads) -> None:
        super().__init__()
        self._connection = connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection.transport.is_closing()

    def close(self) -> None:
        self._connection.end()


def install() -> None:
    """From now on uvicorn's servers in this process use it; BentoML, which starts them, has no setting for that."""
    auto.AutoHTTPProtocol = BoundedHeads
