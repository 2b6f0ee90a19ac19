"""The HTTP edge: what a client may send, and the one shape of every answer and every error.

In order: bearer token, declared length, streamed byte cap with a read deadline, exactly one picture; then, in a
bounded pool off the event loop, decode and predict. A slot is taken only when the body is in, so a slow client
holds nothing. Beyond the queue the answer is 429 at once.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.errors import PictureError
from serving.live import Live, Loaded
from serving.settings import Settings

_CODES = {404: "not_found", 405: "method_not_allowed"}
Handler = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):
    """A request that is answered with an error; `code` is stable, `message` is one line."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class Edge:
    """The routes of one server process."""

    def __init__(self, live: Live, settings: Settings) -> None:
        self._live = live
        self._settings = settings
        slots = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="thaw-predict")
        self._admitted = 0
        self._most = slots + settings.queue

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/v1/predict", self._guarded(self.predict), methods=["POST"]),
                Route("/v1/model", self._guarded(self.model), methods=["GET"]),
                Route("/livez", self.alive, methods=["GET"]),
                Route("/healthz", self.alive, methods=["GET"]),
                Route("/readyz", self.ready, methods=["GET"]),
            ],
            exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _internal},
        )
        app.router.redirect_slashes = False  # a redirect would echo the client's Host, and is no JSON
        return app

    async def alive(self, request: Request) -> Response:
        """200 while the process answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """200 only when a champion is loaded, proven, and on the device asked for."""
        self._champion()
        return JSONResponse({"status": "ready"})

    async def model(self, request: Request) -> Response:
        """What answers here: version, digest, classes, rule, metrics, verdict, provider."""
        return JSONResponse(_describe(self._champion(), self._live.last_error))

    async def predict(self, request: Request) -> Response:
        """One picture in, one decision out."""
        top_k = _top_k(request)
        data = await self._picture(request)
        loaded = self._champion()
        answer = await self._in_pool(lambda: _predict(loaded, data, top_k))
        return JSONResponse(answer | {"request_id": uuid.uuid4().hex})

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            self._authorize(request)
            return await handler(request)

        return guarded

    def _authorize(self, request: Request) -> None:
        token = self._settings.api_token
        if token is None:
            return
        given = request.headers.get("authorization", "")
        expected = f"Bearer {token.get_secret_value()}"
        # Starlette reads header bytes as latin-1; this gives them back, so that a token may be any UTF-8
        if not hmac.compare_digest(given.encode("latin-1"), expected.encode()):
            raise Refusal(
                401,
                "unauthorized",
                "expected Authorization: Bearer with the server's token",
                {"WWW-Authenticate": "Bearer"},
            )

    def _champion(self) -> Loaded:
        loaded = self._live.current
        if loaded is None:
            reason = self._live.last_error or "no model was promoted yet: `thaw promote NAME:VERSION`"
            code = "no_champion" if self._live.last_error is None else "champion_not_loaded"
            raise Refusal(503, code, reason, {"Retry-After": "5"})
        return loaded

    async def _picture(self, request: Request) -> bytes:
        """The picture's bytes: the body itself, or the one file field `image` of a multipart body."""
        limit = self._settings.max_body_bytes
        declared = request.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit() and len(declared) < 19):  # int() refuses thousands of digits
            raise Refusal(400, "invalid_request", f"expected Content-Length as a number, found {declared[:40]!r}")
        if int(declared) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                    data = await _one_file(request, limit)
                else:
                    data = b"".join([chunk async for chunk in _capped(request, limit)])
        except TimeoutError:
            raise Refusal(408, "body_too_slow", "expected the whole body sooner: send it again") from None
        except ClientDisconnect:
            raise Refusal(400, "invalid_request", "the client went away before its body was complete") from None
        if not data:
            raise Refusal(400, "invalid_request", "expected a picture in the body, found no bytes")
        return data

    async def _in_pool(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self._admitted >= self._most:
            raise Refusal(429, "overloaded", "too many requests are waiting: try again shortly", {"Retry-After": "1"})
        self._admitted += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except PictureError as error:
            raise Refusal(error.status, error.code, str(error)) from None
        finally:
            self._admitted -= 1


def _predict(loaded: Loaded, data: bytes, top_k: int) -> dict[str, Any]:
    predictor = loaded.predictor
    answer = predictor.answer([predictor.read(data)])[0]
    return {
        "label": answer.label,
        "probability": answer.probability,
        "scores": [{"label": label, "probability": p} for label, p in answer.scores[:top_k]],
        "rule": predictor.rule.text(),
        "model": {"name": loaded.name, "version": loaded.version, "digest": loaded.artifact.digest},
        "provider": predictor.provider,
    }


def _describe(loaded: Loaded, last_error: str | None) -> dict[str, Any]:
    contents = loaded.artifact.contents
    return {
        "name": loaded.name,
        "version": loaded.version,
        "digest": loaded.artifact.digest,
        "classes": contents.classes,
        "rule": contents.rule.text(),
        "metrics": contents.metrics,
        "verdict": contents.verdict,
        "provider": loaded.predictor.provider,
        "device": loaded.predictor.device,
        "generation": loaded.generation,
        "last_swap": {"at": loaded.since, "error": last_error},
    }


def _top_k(request: Request) -> int:
    value = request.query_params.get("top_k", "5")
    if not (value.isascii() and value.isdigit() and int(value[:9]) >= 1 and len(value) < 9):
        raise Refusal(400, "invalid_request", f"expected top_k as a whole number from 1, found {value[:40]!r}")
    return int(value)


async def _capped(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, up to the limit: whatever length the client declared."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        yield chunk


async def _one_file(request: Request, limit: int) -> bytes:
    parser = MultiPartParser(request.headers, _capped(request, limit), max_files=1, max_fields=8)
    parser.spool_max_size = limit + 1  # pictures stay in memory: none is written to a temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        text = getattr(error, "message", None) or "malformed"
        raise Refusal(400, "invalid_request", f"expected multipart/form-data with one file: {text}") from None
    try:
        upload = form.get("image")
        if not isinstance(upload, UploadFile):
            found = ", ".join(sorted(form.keys()))[:80] or "nothing"
            raise Refusal(400, "invalid_request", f"expected one file field `image`, found {found}")
        return await upload.read()
    finally:
        await form.close()


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"expected at most {limit} bytes: send a smaller picture", {"Connection": "close"})


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    # a client's words in a message may hold what UTF-8 cannot: half a surrogate pair, from a charset of its choice
    line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": {"code": code, "message": line}}, status, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.code, error.message, error.headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid_request")
    headers = dict(error.headers) if error.headers else None
    return _error(error.status_code, code, error.detail, headers)


async def _internal(_request: Request, _defect: Exception) -> Response:
    return _error(500, "internal", "this is a defect of the server; its log says where")
