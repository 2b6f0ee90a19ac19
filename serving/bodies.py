"""Request bodies: read from the network up to a number of bytes and seconds, however the client declares them.

What all bodies together keep in memory is bounded too: a thousand clients that each stop one byte short of the limit
would otherwise fill it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serving.refusal import Refusal
from serving.settings import Settings

MAX_PICTURES = 64  # in a batch
BATCH_TIMES = 3  # as long as a single picture may a batch take to arrive


class Bodies:
    """Reads the bodies of one server process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.buffered = 0  # bytes in memory now

    @asynccontextmanager
    async def picture(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The picture's bytes: the body itself, or the one file field `image` of a multipart body."""
        limit = self._settings.max_body_bytes
        async with self._reading(request, limit, self._settings.read_timeout, "a smaller picture") as body:
            if _is_form(request):
                async with _form(request, body, files=1) as form:
                    data = await _one_file(form)
            else:
                data = b"".join([chunk async for chunk in body])
            if not data:
                raise Refusal(400, "invalid_request", "expected a picture in the body, found no bytes")
            body.done()
            yield data

    @asynccontextmanager
    async def pictures(self, request: Request) -> AsyncGenerator[list[bytes], None]:
        """The bytes of every file field `images` of a multipart body, in order; from 1 to 64."""
        limit = max(self._settings.max_batch_bytes, self._settings.max_body_bytes)
        seconds = BATCH_TIMES * self._settings.read_timeout
        async with self._reading(request, limit, seconds, "fewer or smaller pictures") as body:
            if not _is_form(request):
                raise Refusal(400, "invalid_request", "expected multipart/form-data with file fields `images`")
            async with _form(request, body, files=MAX_PICTURES) as form:
                uploads = form.getlist("images")
                if not uploads or not all(isinstance(upload, UploadFile) for upload in uploads):
                    raise Refusal(400, "invalid_request", f"expected file fields `images`, found {_fields(form)}")
                found = [await upload.read() for upload in uploads if isinstance(upload, UploadFile)]
            body.done()
            yield found

    @asynccontextmanager
    async def _reading(self, request: Request, limit: int, seconds: float, instead: str) -> AsyncGenerator[_Body, None]:
        """The body as chunks; its share of the memory is given back when the answer is made.

        `instead`: what whose body is too large should send.
        """
        body = _Body(self, request, limit, instead)
        body.check_declared()
        try:
            async with asyncio.timeout(seconds) as body.deadline:
                yield body
        except TimeoutError:
            message = "expected the whole body sooner: send it again"
            raise Refusal(408, "body_too_slow", message, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise Refusal(400, "invalid_request", "the client went away before its body was complete") from None
        finally:
            self.buffered -= body.received

    def hold(self, count: int) -> None:
        """Takes that much of the memory for bodies. Raises Refusal when there is no more."""
        if self.buffered + count > self._settings.max_buffered_bytes:
            message = "too many bytes are being received at once: try again shortly"
            raise Refusal(503, "overloaded", message, {"Retry-After": "1", "Connection": "close"})
        self.buffered += count


class _Body:
    """One body while it comes in; iterating gives its chunks. `deadline` ends with `done`."""

    deadline: asyncio.Timeout

    def __init__(self, bodies: Bodies, request: Request, limit: int, instead: str) -> None:
        self._bodies = bodies
        self._request = request
        self._limit = limit
        self._instead = instead
        self.received = 0

    def check_declared(self) -> None:
        """Raises Refusal before a byte is read when the client says that too many come."""
        declared = self._request.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit() and len(declared) < 19):  # int() refuses thousands of digits
            raise Refusal(400, "invalid_request", f"expected Content-Length as a number, found {declared[:40]!r}")
        if int(declared) > self._limit:
            raise self._too_large()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._request.stream():
            if self.received + len(chunk) > self._limit:  # whatever length the client declared
                raise self._too_large()
            self._bodies.hold(len(chunk))
            self.received += len(chunk)
            yield chunk

    def done(self) -> None:
        """All of it is in: how long the answer takes is not the client's doing."""
        self.deadline.reschedule(None)

    def _too_large(self) -> Refusal:
        message = f"expected at most {self._limit} bytes: send {self._instead}"
        return Refusal(413, "too_large", message, {"Connection": "close"})


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


class _Parser(MultiPartParser):
    """Notes whether the last boundary came: a form that was cut off would otherwise lack its last pictures, unseen."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


@asynccontextmanager
async def _form(request: Request, body: _Body, files: int) -> AsyncGenerator[FormData, None]:
    _check_charset(request)
    parser = _Parser(request.headers, body.__aiter__(), max_files=files)
    parser.spool_max_size = body._limit + 1  # pictures stay in memory: none is written to a temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        text = getattr(error, "message", None) or "malformed"
        wanted = "one file" if files == 1 else f"at most {files} files"
        raise Refusal(400, "invalid_request", f"expected multipart/form-data with {wanted}: {text}") from None
    try:
        if not parser.ended:
            raise Refusal(400, "invalid_request", "expected a form up to its last boundary, found it cut off")
        yield form
    finally:
        await form.close()


def _check_charset(request: Request) -> None:
    """Python decodes what a client names, on the event loop, and some of it (punycode) takes quadratic time."""
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        found = charset.decode("latin-1")[:40]
        raise Refusal(400, "invalid_request", f"expected multipart/form-data in UTF-8, found charset {found!r}")


async def _one_file(form: FormData) -> bytes:
    upload = form.get("image")
    if not isinstance(upload, UploadFile):
        raise Refusal(400, "invalid_request", f"expected one file field `image`, found {_fields(form)}")
    return await upload.read()


def _fields(form: FormData) -> str:
    return ", ".join(sorted(form.keys()))[:80] or "nothing"
