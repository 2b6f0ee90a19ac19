"""Bounds on what comes before a body: a request's line and headers, in bytes and in seconds.

uvicorn has none: one connection could send header lines without end, or stay half-way through them for ever, before
any route, token or limit is looked at.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_BYTES = 2**19  # a read gives up to 2**18 at once, in which the body may have begun
SECONDS = 20.0
LINGER_SECONDS = 1.0  # closed at once, with bytes unread, the system would take the refusal back


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, one a connection; its own refusals have the edge's one shape."""

    _deadline: asyncio.TimerHandle | None = None  # while a head is awaited
    _received = 0  # bytes of it
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_in()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._deadline is not None:
            self._received += len(data)
            if self._received > MAX_BYTES:
                self._refuse(431, "too_large", f"expected at most {MAX_BYTES} bytes of headers")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:  # not the connection's first
            self._await_head()

    def on_headers_complete(self) -> None:
        self._head_is_in()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_request", msg)

    def _await_head(self) -> None:
        self._received = 0
        self._deadline = self.loop.call_later(SECONDS, self.transport.close)

    def _head_is_in(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.write_eof()
        self._refused = True
        self._head_is_in()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def install() -> None:
    """From now on uvicorn's servers in this process use it; BentoML, which starts them, has no setting for that."""
    auto.AutoHTTPProtocol = BoundedHeads
