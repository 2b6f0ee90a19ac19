"""The HTTP edge answers what the design promises, and nothing a client sends makes it a 5xx.

Real requests through Starlette's client; where bytes must come slowly, never, or with headers no client library would
send, the ASGI application is driven directly.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from starlette.testclient import TestClient

from serving import artifact as artifacts
from serving.errors import PictureError
from serving.http import Edge
from serving.ledger import opened
from serving.live import Live
from serving.preprocess import read_pixels
from serving.settings import Settings, cores
from serving.store import Store
from tests.conftest import Pipeline
from tests.serving.conftest import model_store_at
from tests.serving.edges import (
    BLUE,
    FORM,
    RED,
    Reply,
    Starved,
    app_of,
    batch_of,
    broken_by,
    call,
    chunks,
    client_of,
    error_of,
    figures_of,
    held_by,
    multipart,
    never_read,
    part,
    png,
)
from tests.serving.pictures import needs_pictures, pictures
from tests.serving.world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def live(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Answers with the pipeline's model, published and promoted in a home of this module's own."""
    place = tmp_path_factory.mktemp("http")
    with model_store_at(place / "bentoml"), opened(place / "home") as ledger:
        source = artifacts.read(pipeline.certified.artifact)
        version = Store(place / "home", ledger).publish(source, "test", "http").version
        ledger.promote("digits", version, who="test", why="http", override=True)
        live = Live(place / "home", device="cpu")
        live.refresh()
        yield live
        live.stop()


@pytest.fixture(scope="module")
def client(live: Live) -> TestClient:
    return client_of(live)


@pytest.fixture(scope="module")
def picture(pipeline: Pipeline) -> bytes:
    return next(iter(sorted(pipeline.data.root.rglob("digit-7/*.png")))).read_bytes()


# --- answers ------------------------------------------------------------------------------------------


def check_answer(body: dict[str, Any], live: Live, picture: bytes) -> None:
    """Exactly the documented keys, and the values the predictor gives."""
    loaded = live.current
    assert loaded is not None
    expected = loaded.predictor.answer([loaded.predictor.read(picture)])[0]
    assert set(body) == {"label", "probability", "scores", "rule", "model", "provider", "request_id"}
    assert body["label"] == expected.label
    assert body["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert [score["label"] for score in body["scores"]] == [label for label, _ in expected.scores]
    for score, (_, probability) in zip(body["scores"], expected.scores, strict=True):
        assert set(score) == {"label", "probability"}
        assert score["probability"] == pytest.approx(probability, abs=1e-6)
    assert body["model"] == {"name": "digits", "version": 1, "digest": loaded.artifact.digest}
    assert body["rule"] == loaded.artifact.contents.rule.text()
    assert body["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/jpeg", "image/jpg", "application/octet-stream", "application/x-www-form-urlencoded", "", "?"],
)
def test_the_body_is_the_picture_whatever_the_client_calls_it(
    client: TestClient, live: Live, picture: bytes, content_type: str
) -> None:
    """`application/x-www-form-urlencoded` is what `curl --data-binary @picture` says."""
    response = client.post("/v1/predict", content=picture, headers={"Content-Type": content_type})
    assert response.status_code == 200
    check_answer(response.json(), live, picture)


def test_no_content_type_at_all_is_fine(client: TestClient, live: Live, picture: bytes) -> None:
    check_answer(client.post("/v1/predict", content=picture).json(), live, picture)


def test_a_multipart_field_is_the_picture(client: TestClient, live: Live, picture: bytes) -> None:
    response = client.post("/v1/predict", files={"image": ("a.png", picture, "image/png")})
    assert response.status_code == 200
    check_answer(response.json(), live, picture)


def test_multipart_with_text_fields_beside_the_picture(client: TestClient, live: Live, picture: bytes) -> None:
    response = client.post("/v1/predict", files={"image": ("a.png", picture)}, data={"note": "x", "camera": "2"})
    check_answer(response.json(), live, picture)


def test_pictures_that_differ_get_answers_that_differ(client: TestClient, pipeline: Pipeline) -> None:
    """The control: the equal values above are not those of a constant."""
    files = sorted(pipeline.data.root.rglob("*.png"))[::24]
    answers = [client.post("/v1/predict", content=path.read_bytes()).json() for path in files]
    assert len({answer["label"] for answer in answers}) > 1
    assert len({answer["probability"] for answer in answers}) > len(files) / 2


def test_every_request_has_an_id_of_its_own(client: TestClient, picture: bytes) -> None:
    assert len({client.post("/v1/predict", content=picture).json()["request_id"] for _ in range(5)}) == 5


def test_what_the_server_says_of_its_model(client: TestClient, live: Live, pipeline: Pipeline) -> None:
    body = client.get("/v1/model").json()
    assert set(body) == {
        "name", "version", "digest", "classes", "rule", "metrics", "verdict", "precision", "provider", "device",
        "generation", "last_swap",
    }  # fmt: skip
    assert live.current is not None
    assert body["classes"] == ["digit-0", "digit-1", "digit-7"]
    assert (body["name"], body["version"], body["generation"], body["device"]) == ("digits", 1, 1, "cpu")
    assert body["digest"] == artifacts.read(pipeline.certified.artifact).digest
    assert body["verdict"] == pipeline.certified.verdict
    assert set(body["last_swap"]) == {"at", "error"}
    assert body["last_swap"] == {"at": live.current.since, "error": None}
    assert 0 <= body["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize(("route", "status"), [("/livez", "alive"), ("/healthz", "alive"), ("/readyz", "ready")])
def test_probes(client: TestClient, route: str, status: str) -> None:
    response = client.get(route)
    assert (response.status_code, response.json()) == (200, {"status": status})


# --- top_k --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top_k", "expected"), [("1", 1), ("2", 2), ("3", 3), ("4", 3), ("99999999", 3), ("01", 1)])
def test_top_k_shortens_the_scores(client: TestClient, picture: bytes, top_k: str, expected: int) -> None:
    body = client.post("/v1/predict", params={"top_k": top_k}, content=picture).json()
    assert len(body["scores"]) == expected
    values = [score["probability"] for score in body["scores"]]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("top_k", ["0", "-1", "abc", "", "1.0", " 1", "+1", "1_0", "٣", "²", "1" * 9, "9" * 5000])
def test_a_top_k_that_is_no_count_is_400(client: TestClient, picture: bytes, top_k: str) -> None:
    response = client.post("/v1/predict", params={"top_k": top_k}, content=picture)
    assert error_of(response) == (400, "invalid_request")
    assert "top_k" in response.json()["error"]["message"]


# --- 400, 404, 405, 415, 422 --------------------------------------------------------------------------


def test_an_empty_body_is_400(client: TestClient) -> None:
    assert error_of(client.post("/v1/predict")) == (400, "invalid_request")
    assert error_of(client.post("/v1/predict", content=b"", headers={"Content-Type": "image/png"}))[0] == 400
    assert error_of(client.post("/v1/predict", files={"image": ("a.png", b"")})) == (400, "invalid_request")


BROKEN_FORMS: dict[str, tuple[bytes, str]] = {
    "wrong field": (multipart(part(b"x", name="file")), "boundary=xyz"),
    "no file": (multipart(part(b"x", filename=None)), "boundary=xyz"),
    "text after the file": (multipart(part(b"x"), part(b"y", filename=None)), "boundary=xyz"),
    "two files": (multipart(part(b"x"), part(b"y")), "boundary=xyz"),
    "two files of other names": (multipart(part(b"x"), part(b"y", name="mask")), "boundary=xyz"),
    "nine text fields": (multipart(*[part(b"x", name=f"f{i}", filename=None) for i in range(9)]), "boundary=xyz"),
    "no boundary": (multipart(part(b"x")), ""),
    "empty boundary": (multipart(part(b"x")), "boundary="),
    "another boundary": (multipart(part(b"x"), boundary=b"abc"), "boundary=xyz"),
    "endless boundary": (multipart(part(b"x")), "boundary=" + "x" * 5000),
    "no form": (b"\x89PNG\r\n\x1a\n and so on", "boundary=xyz"),
    "nothing": (b"", "boundary=xyz"),
    "cut in the headers": (multipart(part(b"x"))[:30], "boundary=xyz"),
    "cut in the data": (multipart(part(b"x" * 100))[:-60], "boundary=xyz"),
    "cut before the last boundary": (multipart(part(b"x"), part(b"y"))[:-9], "boundary=xyz"),
    "a charset that takes quadratic time": (
        multipart(part(png(RED), name="image-", filename="x-")), "boundary=xyz; charset=punycode",
    ),
    "no name": (multipart(b'Content-Disposition: form-data; filename="a"\r\n\r\nx'), "boundary=xyz"),
    "no disposition": (multipart(b"Content-Type: image/png\r\n\r\nx"), "boundary=xyz"),
    "no headers": (multipart(b"\r\nx"), "boundary=xyz"),
    "a header without colon": (multipart(b"Content-Disposition\r\n\r\nx"), "boundary=xyz"),
    "a large text field": (multipart(part(b"x" * 2**21, filename=None)), "boundary=xyz"),
    "half a surrogate pair as name": (multipart(part(b"x", name="\\ud800")), "boundary=xyz; charset=unicode_escape"),
    "the same in UTF-7": (multipart(part(b"x", name="+2AA-")), "boundary=xyz; charset=utf-7"),
    "a charset that never decodes": (multipart(part(b"x", name="ä")), "boundary=xyz; charset=undefined"),
    "a charset that is no text": (multipart(part(b"x", name="y")), "boundary=xyz; charset=hex"),
    "a charset with a name for hosts": (multipart(part(b"x", name="xn--\xff")), "boundary=xyz; charset=idna"),
    "a charset with a zero byte": (multipart(part(b"x", name="y")), 'boundary=xyz; charset="a\\0b"'),
    "a very long file name": (multipart(part(b"x", filename="n" * 100_000)), "boundary=xyz"),
    "a very long name": (multipart(part(b"x", name="n" * 100_000)), "boundary=xyz"),
}  # fmt: skip


@pytest.mark.parametrize("form", BROKEN_FORMS.values(), ids=BROKEN_FORMS)
def test_a_form_that_is_not_one_picture_is_400(client: TestClient, form: tuple[bytes, str]) -> None:
    body, parameters = form
    headers = {"Content-Type": f"multipart/form-data; {parameters}"}
    response = client.post("/v1/predict", content=body, headers=headers)
    assert error_of(response) == (400, "invalid_request")
    assert len(response.content) < 1000, "a client's words are not echoed at length"


FILE_NAMES = [
    "../../etc/passwd", "/etc/passwd", "..\\\\..\\\\boot.ini", "a" * 1000, "", " ", ".", "a\0b.png", "%00.png",
    "\u202egnp.exe", "日本語.png", "'; DROP TABLE versions; --", "$(reboot).png", "<script>alert(1)</script>.png",
    "http://169.254.169.254/", "file:///etc/passwd", "a;b=c.png", "nul", "🥶.png",
]  # fmt: skip


@pytest.mark.parametrize("name", FILE_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_hostile_file_name_changes_nothing(client: TestClient, live: Live, picture: bytes, name: str) -> None:
    response = client.post("/v1/predict", content=multipart(part(picture, filename=name)), headers=FORM)
    assert response.status_code == 200
    check_answer(response.json(), live, picture)
    assert list(Path.cwd().iterdir()) == [], "nothing was written here"


def test_a_picture_in_a_form_stays_in_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette would move anything above 1 MB to a temporary file."""

    def to_disk(self: object) -> None:
        raise AssertionError("the picture was written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", to_disk)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    body = io.BytesIO()
    Image.fromarray(noise).save(body, "PNG")
    assert len(body.getvalue()) > 2**21
    assert client.post("/v1/predict", files={"image": ("a.png", body.getvalue())}).status_code == 200


LENGTHS = [b"abc", b"-1", b"+5", b"1e3", b"0x10", b"", b" ", b"5, 5", b"\xb2", b"9" * 19, b"9" * 5000, b"1.0"]


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: repr(length[:8]))
def test_a_content_length_that_is_no_length_is_400(client: TestClient, length: bytes) -> None:
    reply = asyncio.run(call(app_of(client), never_read, [(b"content-length", length)]))
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")


def test_a_client_that_goes_away_is_no_defect(client: TestClient) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    for headers in ({}, FORM):
        reply = asyncio.run(call(app_of(client), gone, headers))
        assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/predict/", "/v1/predictions", "/v1/model/", "/docs", "/a%2fb", "//"]
)
def test_what_is_not_there_is_404_as_json(client: TestClient, path: str) -> None:
    for method in ("GET", "POST"):
        response = client.request(method, path, follow_redirects=False)
        assert error_of(response) == (404, "not_found")
        assert "/ui/" in response.json()["error"]["message"], "where people want to go"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/predict", {"POST"}), ("PUT", "/v1/predict", {"POST"}), ("DELETE", "/v1/predict", {"POST"}),
        ("POST", "/v1/model", {"GET", "HEAD"}), ("POST", "/readyz", {"GET", "HEAD"}),
        ("BREW", "/livez", {"GET", "HEAD"}),
    ],
)  # fmt: skip
def test_another_method_is_405_as_json(client: TestClient, method: str, path: str, allowed: set[str]) -> None:
    response = client.request(method, path)
    assert error_of(response) == (405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == allowed
    message = response.json()["error"]["message"]
    assert all(word in message for word in (*allowed, f"found {method}"))


@pytest.mark.parametrize("body", [b"hello", b"<svg/>", b"%PDF-1.7", b"\0" * 100, b"II*\0", b"http://localhost/a.png"])
def test_what_is_no_picture_is_415(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/predict", content=body, headers={"Content-Type": "image/png"})
    assert error_of(response) == (415, "unsupported_format")
    assert error_of(client.post("/v1/predict", files={"image": ("a.png", body)})) == (415, "unsupported_format")


def test_half_a_picture_is_422(client: TestClient, picture: bytes) -> None:
    assert error_of(client.post("/v1/predict", content=picture[: len(picture) // 2])) == (422, "undecodable")


def test_a_picture_of_too_many_pixels_is_413(client: TestClient) -> None:
    body = io.BytesIO()
    Image.new("1", (6000, 4001)).save(body, "PNG")
    assert error_of(client.post("/v1/predict", content=body.getvalue())) == (413, "too_large")


def test_a_form_cannot_carry_a_body_that_is_urlencoded(client: TestClient) -> None:
    assert error_of(client.post("/v1/predict", data={"image": "http://localhost/a.png"})) == (415, "unsupported_format")


# --- 413 ----------------------------------------------------------------------------------------------

CAP = 1000


@pytest.fixture(scope="module")
def small(live: Live) -> TestClient:
    return client_of(live, max_body_bytes=CAP)


def streamed(body: bytes) -> Iterator[bytes]:
    """Sent in chunks, without a Content-Length."""
    for start in range(0, len(body), 300):
        yield body[start : start + 300]


def form_of(total: int) -> bytes:
    frame = len(multipart(part(b"")))
    body = multipart(part(b"x" * (total - frame)))
    assert len(body) == total
    return body


@pytest.mark.parametrize("send", [bytes, streamed], ids=["declared", "streamed"])
@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, lambda total: b"x" * total), (FORM, form_of)],
    ids=["raw", "multipart"],
)
def test_the_cap_holds_to_the_byte(
    small: TestClient, send: Callable[[bytes], Any], headers: dict[str, str], body: Callable[[int], bytes]
) -> None:
    exact = small.post("/v1/predict", content=send(body(CAP)), headers=headers)
    assert error_of(exact) == (415, "unsupported_format"), "past the cap, it is only no picture"
    for more in (CAP + 1, 10 * CAP):
        assert error_of(small.post("/v1/predict", content=send(body(more)), headers=headers)) == (413, "too_large")


@pytest.mark.parametrize("headers", [{}, FORM], ids=["raw", "multipart"])
def test_a_body_declared_too_large_is_not_read(small: TestClient, headers: dict[str, str]) -> None:
    declared = headers | {"Content-Length": str(CAP + 1)}
    reply = asyncio.run(call(app_of(small), never_read, declared))
    assert (reply.status, reply.body["error"]["code"]) == (413, "too_large")
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [{}, FORM], ids=["raw", "multipart"])
def test_a_declared_length_that_lies_does_not_help(small: TestClient, headers: dict[str, str]) -> None:
    body = form_of(2 * CAP)
    receive = chunks(*streamed(body), forever=True)
    reply = asyncio.run(call(app_of(small), receive, headers | {"Content-Length": "5"}))
    assert reply.status == 413


# --- 401 ----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(live: Live, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("THAW_API_TOKEN", "a-long-secret")
    return TestClient(Edge(live, Settings()).app(), raise_server_exceptions=False)


def test_with_the_token_it_answers(guarded: TestClient, picture: bytes) -> None:
    headers = {"Authorization": "Bearer a-long-secret"}
    assert guarded.post("/v1/predict", content=picture, headers=headers).status_code == 200
    assert guarded.get("/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"Basic a-long-secret", b"a-long-secret",
        b"Bearer a-long-secret ", b"Bearer a-long-secre", b"Bearer A-LONG-SECRET", b"Bearer \xff\xfe",
        "Bearer é".encode(), b"\x80", b"Bearer " + b"x" * 50_000,
    ],
    ids=lambda header: repr(header)[:20],
)  # fmt: skip
def test_without_it_nothing_is_read_or_said(guarded: TestClient, header: bytes | None) -> None:
    headers = [] if header is None else [(b"authorization", header)]
    reply = asyncio.run(call(app_of(guarded), never_read, headers))
    assert (reply.status, reply.body["error"]["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "secret" not in json.dumps(reply.body)


def test_the_models_description_is_guarded_and_probes_are_not(guarded: TestClient) -> None:
    assert error_of(guarded.get("/v1/model")) == (401, "unauthorized")
    assert [guarded.get(route).status_code for route in ("/livez", "/healthz", "/readyz")] == [200] * 3


def test_a_token_may_be_any_text(live: Live, picture: bytes) -> None:
    client = client_of(live, api_token=SecretStr("schlüssel-日本"))
    right = {b"Authorization": "Bearer schlüssel-日本".encode()}
    assert client.post("/v1/predict", content=picture, headers=right).status_code == 200
    assert error_of(client.post("/v1/predict", content=picture, headers={b"Authorization": b"Bearer schl"}))[0] == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEARER"])
def test_the_schemes_name_has_no_case(guarded: TestClient, scheme: str) -> None:
    assert guarded.get("/v1/model", headers={"Authorization": f"{scheme} a-long-secret"}).status_code == 200
    assert error_of(guarded.get("/v1/model", headers={"Authorization": f"{scheme} A-long-secret"}))[0] == 401


def test_an_empty_token_is_no_token(live: Live, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`THAW_API_TOKEN=` in a compose file means unset; `thaw serve` then refuses addresses others can reach."""
    monkeypatch.setenv("THAW_API_TOKEN", "")
    assert Settings().api_token is None


# --- 408 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, FORM], ids=["raw", "multipart"])
@pytest.mark.parametrize(("size", "pause"), [(500, 0.0), (1, 0.05)], ids=["stalls", "trickles"])
def test_a_slow_body_is_408(live: Live, headers: dict[str, str], size: int, pause: float) -> None:
    app = Edge(live, Settings(read_timeout=0.3)).app()
    body = form_of(900)[:-100]
    slow = chunks(*(body[start : start + size] for start in range(0, len(body), size)), pause=pause, forever=True)
    started = time.perf_counter()
    reply = asyncio.run(call(app, slow, headers))
    assert (reply.status, reply.body["error"]["code"]) == (408, "body_too_slow")
    assert reply.headers["connection"] == "close", "or the rest would be taken for the next request"
    assert 0.3 <= time.perf_counter() - started < 3


def test_slow_clients_keep_nobody_waiting(live: Live, picture: bytes) -> None:
    """A place in the queue is taken only when the body is in."""
    edge = Edge(live, Settings(read_timeout=5, queue=1))

    async def scenario() -> Reply:
        app = edge.app()
        slow = [asyncio.create_task(call(app, chunks(b"x", forever=True))) for _ in range(100)]
        await asyncio.sleep(0.1)
        reply = await call(app, chunks(picture))
        for task in slow:
            task.cancel()
        return reply

    assert asyncio.run(scenario()).status == 200


# --- 429 ----------------------------------------------------------------------------------------------


def test_beyond_the_queue_it_is_429_at_once_and_the_others_are_answered(live: Live, picture: bytes) -> None:
    slow, go = held_by(live)
    edge = Edge(slow, Settings(queue=2))
    room = cores() + 2

    async def scenario() -> tuple[list[Reply], list[Reply], Reply]:
        app = edge.app()
        waiting = [asyncio.create_task(call(app, chunks(picture))) for _ in range(room)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        beyond = [await asyncio.wait_for(call(app, chunks(picture)), 2) for _ in range(3)]
        go.set()
        return await asyncio.gather(*waiting), beyond, await call(app, chunks(picture))

    answered, beyond, later = asyncio.run(scenario())
    assert [reply.status for reply in answered] == [200] * room
    for reply in beyond:
        assert (reply.status, reply.body["error"]["code"]) == (429, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
    assert later.status == 200


def test_refused_pictures_give_their_place_back(live: Live, picture: bytes) -> None:
    edge = Edge(live, Settings(queue=1))

    async def scenario() -> list[int]:
        app = edge.app()
        refused = [(await call(app, chunks(b"no picture"))).status for _ in range(cores() + 1 + 5)]
        return [*refused, (await call(app, chunks(picture))).status]

    statuses = asyncio.run(scenario())
    assert set(statuses[:-1]) == {415}
    assert statuses[-1] == 200


# --- 500 and 503 --------------------------------------------------------------------------------------


def test_a_defect_of_ours_is_500_and_tells_nothing(live: Live, picture: bytes) -> None:
    """The control of every test that expects no 5xx: it would be seen."""
    response = client_of(broken_by(live)).post("/v1/predict", content=picture)
    assert error_of(response) == (500, "internal")
    assert "ann" not in response.text


def test_without_memory_for_a_picture_it_is_503_not_the_pictures_fault(tiny: Live) -> None:
    client = client_of(broken_by(tiny, Starved))
    for path, body in (("/v1/predict", {"content": png(RED)}), ("/v1/predict/batch", {"files": batch_of(png(RED))})):
        response = client.post(path, **body)
        assert error_of(response) == (503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1


ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from serving.engine import Engine
from serving.metrics import Metrics
import serving.settings
engine = Engine(serving.settings.Settings(queue=1, device="cpu"), Metrics())
print(engine._pool._max_workers, engine._most)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be kept from cores here")
def test_slots_are_of_the_cores_this_process_may_use() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_CORE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2"], done.stderr


def test_why_the_champion_did_not_load_is_told_behind_the_token_only(world: World) -> None:
    world.promote(world.publish())
    world.damage(1)
    live = world.live()
    live.refresh()
    client = client_of(live, api_token=SecretStr("right"))
    asked = [client.get("/readyz"), client.get("/v1/model", headers={"Authorization": "Bearer right"})]
    assert [error_of(response) for response in asked] == [(503, "champion_not_loaded")] * 2
    assert [str(world.bentoml_home) in response.text for response in asked] == [False, True]
    live.stop()


def test_before_the_first_promotion_it_is_503_and_then_loads_by_itself(
    pipeline: Pipeline, picture: bytes, home: Path, bentoml_home: Path
) -> None:
    live = Live(home, device="cpu", poll_seconds=0.05)
    client = client_of(live)
    live.start()
    try:
        for ask in (lambda: client.post("/v1/predict", content=picture), lambda: client.get("/v1/model")):
            assert error_of(ask()) == (503, "no_champion")
        assert error_of(client.get("/readyz")) == (503, "no_champion")
        assert client.get("/readyz").headers["retry-after"]
        assert client.get("/livez").status_code == 200
        with opened(home) as ledger:
            Store(home, ledger).publish(artifacts.read(pipeline.certified.artifact), "test", "")
            time.sleep(0.2)
            assert error_of(client.get("/readyz")) == (503, "no_champion"), "published is not promoted"
            ledger.promote("digits", 1, who="test", why="", override=True)
        deadline = time.monotonic() + 10
        while client.get("/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        check_answer(client.post("/v1/predict", content=picture).json(), live, picture)
    finally:
        live.stop()


# --- ending -------------------------------------------------------------------------------------------


def test_a_server_that_is_told_to_end_is_not_ready_but_still_answers(tiny: Live) -> None:
    edge = Edge(tiny, Settings())
    client = TestClient(edge.app(), raise_server_exceptions=False)
    before = [client.get("/readyz"), client.post("/v1/predict", content=png(RED))]
    assert [response.status_code for response in before] == [200, 200]
    assert not any("connection" in response.headers for response in before)
    edge.stopping = True
    ready = client.get("/readyz")
    assert error_of(ready) == (503, "stopping")
    assert int(ready.headers["retry-after"]) >= 1
    answered = [
        client.post("/v1/predict", content=png(RED)),
        client.post("/v1/predict/batch", files=batch_of(png(RED))),
        client.get("/v1/model"),
        client.get("/livez"),
    ]
    assert [response.status_code for response in answered] == [200] * 4
    assert answered[0].json()["label"] == "red"
    refused = client.post("/v1/predict", content=b"no picture")
    assert error_of(refused) == (415, "unsupported_format")
    assert [response.headers["connection"] for response in (ready, *answered, refused)] == ["close"] * 6


# --- request ids and the log --------------------------------------------------------------------------


def test_an_answers_id_is_in_its_header_and_its_body(tiny: Live) -> None:
    client = client_of(tiny)
    for response in (
        client.post("/v1/predict", content=png(RED), headers={"X-Request-Id": "mine"}),
        client.post("/v1/predict/batch", files=batch_of(png(RED))),
    ):
        assert response.headers["x-request-id"] == response.json()["request_id"]
        assert re.fullmatch("[0-9a-f]{32}", response.json()["request_id"]), "the server's own, not a client's words"


def test_a_refusal_has_an_id_too(tiny: Live) -> None:
    client, nothing = client_of(tiny, api_token=SecretStr("right")), client_of(Live(Path("unused")))
    right = {"Authorization": "Bearer right"}
    refused = [
        client.post("/v1/predict", content=png(RED)),
        client.post("/v1/predict", headers=right),
        client.post("/v1/predict", content=b"no picture", headers=right),
        client.post("/v1/predict/batch", content=b"no form", headers=right),
        nothing.post("/v1/predict", content=png(RED)),
        nothing.get("/readyz"),
    ]
    assert [response.status_code for response in refused] == [401, 400, 415, 400, 503, 503]
    ids = [response.headers["x-request-id"] for response in refused]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "serving.access"]


def test_every_request_is_logged_as_json_without_what_the_client_sent(
    tiny: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving.access")
    client = client_of(tiny, api_token=SecretStr("a-long-secret"))
    headers = {"Authorization": "Bearer a-long-secret"}
    files = {"image": ("patient-7.png", png(RED))}
    wrong = {"Authorization": "Bearer a-wrong-token"}
    done = [
        client.post("/v1/predict?top_k=2&who=ann", files=files, headers=headers),
        client.post("/v1/predict/batch", files=[("images", ("patient-8.png", b"hello"))], headers=headers),
        client.post("/v1/predict?top_k=many", files=files, headers=headers),
        client.post("/v1/predict", files={"image": ("patient-9.png", b"hello")}, headers=headers),
        client.get("/v1/model", headers=wrong),
        client.get("/livez?who=ann"),
    ]
    lines = logged(caplog)
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/predict", 200), ("/v1/predict/batch", 200), ("/v1/predict", 400), ("/v1/predict", 415),
        ("/v1/model", 401), ("/livez", 200),
    ]  # fmt: skip
    assert [line["request_id"] for line in lines] == [response.headers["x-request-id"] for response in done]
    for line in lines:
        assert set(line) == {"request_id", "route", "status", "ms"}
        assert 0 <= line["ms"] < 60_000
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("serving"))
    for words in ("secret", "wrong", "Bearer", "patient", "ann", "top_k", "many", "?"):
        assert words not in ours


def test_a_defect_of_ours_is_logged_and_counted_as_500(tiny: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.access")
    client = client_of(broken_by(tiny))
    assert error_of(client.post("/v1/predict", content=png(RED))) == (500, "internal")
    assert [(line["route"], line["status"]) for line in logged(caplog)] == [("/v1/predict", 500)]
    requests = figures_of(client.get("/metrics").text)["thaw_requests_total"]
    assert requests == {("/v1/predict", "500"): 1}


def test_where_lines_for_every_request_are_not_wanted_there_are_none(
    tiny: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "serving.access")
    assert client_of(tiny).get("/livez").status_code == 200
    assert logged(caplog) == []


# --- TIFF ---------------------------------------------------------------------------------------------


def test_tiff_is_refused_unless_it_was_asked_for(tiny: Live) -> None:
    tiff = png(BLUE, kind="TIFF")
    usual, asked = client_of(tiny), client_of(tiny, accept_tiff=True)
    assert error_of(usual.post("/v1/predict", content=tiff)) == (415, "unsupported_format")
    assert asked.post("/v1/predict", content=tiff).json()["label"] == "blue"
    (refused,) = usual.post("/v1/predict/batch", files=batch_of(tiff)).json()["results"]
    (answered,) = asked.post("/v1/predict/batch", files=batch_of(tiff)).json()["results"]
    assert refused["error"]["code"] == "unsupported_format"
    assert answered["label"] == "blue"
    for client, told in ((usual, False), (asked, True)):
        message = client.post("/v1/predict", content=b"no picture").json()["error"]["message"]
        assert ("TIFF" in message) == told
        assert client.post("/v1/predict", content=png(RED)).json()["label"] == "red"


# --- pictures made by others --------------------------------------------------------------------------


def expected_of(data: bytes, live: Live) -> tuple[int, str]:
    if not data:
        return 400, "invalid_request"
    assert live.current is not None
    try:
        read_pixels(data, live.current.predictor.preprocessing)
        return 200, "ok"
    except PictureError as error:
        return error.status, error.code


@needs_pictures
@pytest.mark.filterwarnings("ignore")  # Pillow warns about what is odd in them
def test_no_public_test_picture_is_a_5xx(client: TestClient, live: Live) -> None:
    found: Counter[int] = Counter()
    for number, path in enumerate(pictures()):
        data = path.read_bytes()
        if number % 10:
            response = client.post("/v1/predict", content=data)
        else:
            response = client.post("/v1/predict", files={"image": (path.name, data)})
        status = (200, "ok") if response.status_code == 200 else error_of(response)
        assert status == expected_of(data, live), path.name
        found[response.status_code] += 1
    assert set(found) <= {200, 400, 413, 415, 422}
    assert found[200] > 700
