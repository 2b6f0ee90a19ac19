"""What tests of the HTTP edge share: clients, bodies by hand, and the ASGI application driven directly."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from benchmarks.served import model_store
from serving.artifact import Artifact
from serving.batching import batcher_of
from serving.http import Edge
from serving.ledger import opened
from serving.live import Live
from serving.predictor import Answer, Predictor
from serving.preprocess import FORMATS, Pixels
from serving.settings import Settings
from serving.store import Store

Headers = dict[str, str] | list[tuple[bytes, bytes]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def client_of(live: Live, **settings: Any) -> TestClient:
    return TestClient(Edge(live, Settings(**settings)).app(), raise_server_exceptions=False)


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code, after the shape that every error has was checked."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    return response.status_code, body["error"]["code"]


def multipart(*parts: bytes, boundary: bytes = b"xyz") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def part(data: bytes, name: str = "image", filename: str | None = "a.png") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'Content-Disposition: form-data; name="{name}"{file}\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + data


FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}


# --- driving the application directly -----------------------------------------------------------------


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: Any


async def call(app: Starlette, receive: Receive, headers: Headers = (), path: str = "/v1/predict") -> Reply:  # type: ignore[assignment]
    """One POST with exactly these headers and whatever `receive` gives."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(k.encode().lower(), v.encode()) if isinstance(k, str) else (k, v) for k, v in pairs]  # type: ignore[union-attr]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": raw,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 3000),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, json.loads(b"".join(message.get("body", b"") for message in sent[1:])))


def chunks(*bodies: bytes, pause: float = 0.0, forever: bool = False) -> Receive:
    """A client that sends these chunks, waiting before each; then ends the body, or never does."""
    waiting = list(bodies)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        if not waiting and forever:
            await asyncio.Event().wait()
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or forever}

    return receive


async def never_read() -> dict[str, Any]:
    raise AssertionError("the body was read")


def app_of(client: TestClient) -> Starlette:
    assert isinstance(client.app, Starlette)
    return client.app


class Held(Predictor):
    """A real predictor that waits before it answers."""

    go: threading.Event

    def answer(self, pixels: Any) -> list[Answer]:
        self.go.wait(30)
        return super().answer(pixels)


def held_by(live: Live) -> tuple[Live, threading.Event]:
    loaded = live.current
    assert loaded is not None
    contents = loaded.artifact.contents
    held = Held(loaded.artifact.model, contents.classes, contents.preprocessing, contents.rule, "cpu")
    held.go = threading.Event()
    other = Live(Path("unused"))
    other.current = replace(loaded, predictor=held, batcher=batcher_of(held, 1))
    return other, held.go


# --- a small model behind it --------------------------------------------------------------------------

RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)


def png(colour: tuple[int, int, int], side: int = 10, kind: str = "PNG") -> bytes:
    """A flat picture: the tiny model decides its largest channel."""
    body = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(body, kind)
    return body.getvalue()


def live_at(place: Path, source: Artifact) -> Live:
    """Answers with this artifact, published and promoted as version 1."""
    with model_store(place / "bentoml"), opened(place / "home") as ledger:
        name = Store(place / "home", ledger).publish(source, "test", "").name
        ledger.promote(name, 1, who="test", why="")
        live = Live(place / "home", device="cpu")
        live.refresh()
    assert live.current is not None
    return live


# --- its figures --------------------------------------------------------------------------------------

Figures = dict[str, dict[tuple[str, ...], float]]


def figures_of(text: str) -> Figures:
    """Every sample but the times of creation, by name, then by the values of its labels in their order."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def buffered(edge: Edge) -> float:
    """Bytes of bodies in memory, as the server tells."""
    return figures_of(edge._metrics.text().decode())["thaw_buffered_bytes"][()]


class Defective(Predictor):
    """A real predictor with a defect."""

    def answer(self, pixels: Any) -> list[Answer]:
        raise RuntimeError("a secret path /home/ann")


class Starved(Predictor):
    """A real predictor where no memory is left to decode."""

    def read(self, data: bytes, formats: tuple[str, ...] = FORMATS) -> Pixels:
        raise MemoryError


def broken_by(live: Live, kind: type[Predictor] = Defective) -> Live:
    loaded = live.current
    assert loaded is not None
    contents = loaded.artifact.contents
    defective = kind(loaded.artifact.model, contents.classes, contents.preprocessing, contents.rule, "cpu")
    broken = Live(Path("unused"))
    broken.current = replace(loaded, predictor=defective, batcher=batcher_of(defective, 1))
    return broken


def batch_of(*pictures: bytes, field: str = "images") -> list[tuple[str, tuple[str, bytes]]]:
    """The files of a batch, as the client library takes them."""
    return [(field, (f"{number}.png", data)) for number, data in enumerate(pictures)]
