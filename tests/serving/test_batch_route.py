"""Many pictures in one request: each has its own answer or its own error, in the order they were sent."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving.bodies import BATCH_TIMES, MAX_PICTURES
from serving.http import Edge
from serving.live import Live
from serving.settings import Settings, cores
from tests.serving.edges import (
    BLUE,
    FORM,
    GREEN,
    RED,
    Reply,
    app_of,
    batch_of,
    broken_by,
    call,
    chunks,
    client_of,
    error_of,
    held_by,
    multipart,
    never_read,
    part,
    png,
)

ROUTE = "/v1/predict/batch"


@pytest.fixture(scope="module")
def client(tiny: Live) -> TestClient:
    return client_of(tiny)


def send(client: TestClient, *pictures: bytes, **more: Any) -> httpx.Response:
    return client.post(ROUTE, files=batch_of(*pictures), **more)


def outcomes(response: httpx.Response) -> list[str]:
    """The label or the error code of each picture."""
    assert response.status_code == 200
    found = []
    for result in response.json()["results"]:
        if "error" in result:
            assert set(result) == {"error"}
            assert set(result["error"]) == {"code", "message"}
            assert result["error"]["message"]
            found.append(result["error"]["code"])
        else:
            assert set(result) == {"label", "probability", "scores"}
            found.append(result["label"])
    return found


def noise(side: int, seed: int = 0) -> bytes:
    body = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(values).save(body, "PNG")
    return body.getvalue()


# --- answers ------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_pictures_and_equal_single_ones(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    pictures = [png(tuple(rng.integers(0, 256, 3))) for _ in range(MAX_PICTURES)]
    results = send(client, *pictures).json()["results"]
    assert len(results) == MAX_PICTURES
    for data, result in zip(pictures, results, strict=True):
        alone = client.post("/v1/predict", content=data).json()
        assert result["label"] == alone["label"]
        assert result["probability"] == pytest.approx(alone["probability"], abs=1e-6)
        assert [score["label"] for score in result["scores"]] == [score["label"] for score in alone["scores"]]
        for score, wanted in zip(result["scores"], alone["scores"], strict=True):
            assert score["probability"] == pytest.approx(wanted["probability"], abs=1e-6)
    assert len({result["probability"] for result in results}) > MAX_PICTURES / 2, "the control: they differ"


def test_what_answers_is_said_once(client: TestClient, tiny: Live) -> None:
    body = send(client, png(RED), png(BLUE)).json()
    assert set(body) == {"results", "rule", "model", "provider", "request_id"}
    assert tiny.current is not None
    assert body["model"] == {"name": "colours", "version": 1, "digest": tiny.current.artifact.digest}
    assert body["provider"] == "CPUExecutionProvider"
    assert body["rule"] is None


@pytest.mark.parametrize("count", [1, 2, 33, MAX_PICTURES])
def test_up_to_64_pictures_are_answered(client: TestClient, count: int) -> None:
    colours = {"red": RED, "green": GREEN, "blue": BLUE}
    labels = [list(colours)[number % 3] for number in range(count)]
    assert outcomes(send(client, *(png(colours[label]) for label in labels))) == labels


def test_text_fields_and_other_files_beside_the_pictures_do_not_matter(client: TestClient) -> None:
    files = [*batch_of(png(RED)), *batch_of(b"mask", field="mask"), *batch_of(png(BLUE))]
    response = client.post(ROUTE, files=files, data={"note": "x", "camera": "2"})
    assert outcomes(response) == ["red", "blue"]


@pytest.mark.parametrize(("top_k", "expected"), [("1", 1), ("2", 2), ("9", 3)])
def test_top_k_shortens_the_scores_of_each(client: TestClient, top_k: str, expected: int) -> None:
    results = send(client, png(RED), png(BLUE), params={"top_k": top_k}).json()["results"]
    assert [len(result["scores"]) for result in results] == [expected] * 2


# --- bad items ----------------------------------------------------------------------------------------


def test_a_bad_picture_is_an_error_in_its_own_place_only(tiny: Live) -> None:
    many = io.BytesIO()
    Image.new("1", (6000, 4001)).save(many, "PNG")
    large = noise(100)
    limit = len(many.getvalue()) + 1
    assert len(large) > limit
    sent = {
        "first": (png(RED), "red"),
        "no picture": (b"hello", "unsupported_format"),
        "good": (png(GREEN), "green"),
        "empty": (b"", "unsupported_format"),
        "half": (png(RED)[:40], "undecodable"),
        "too many pixels": (many.getvalue(), "too_large"),
        "too many bytes": (large, "too_large"),
        "last": (png(BLUE), "blue"),
    }
    response = send(client_of(tiny, max_body_bytes=limit), *(data for data, _ in sent.values()))
    assert outcomes(response) == [expected for _, expected in sent.values()]


def test_only_bad_pictures_are_answered_too(client: TestClient) -> None:
    assert outcomes(send(client, b"", b"a", b"b")) == ["unsupported_format"] * 3


def test_the_largest_picture_is_the_same_in_a_batch_to_the_byte(tiny: Live) -> None:
    client = client_of(tiny, max_body_bytes=1000)
    assert outcomes(send(client, b"x" * 1000, b"x" * 1001, b"x" * 5000)) == [
        "unsupported_format", "too_large", "too_large",
    ]  # fmt: skip
    assert "1000 bytes" in send(client, b"x" * 1001).json()["results"][0]["error"]["message"]


# --- 400 ----------------------------------------------------------------------------------------------


def test_65_pictures_are_too_many(client: TestClient) -> None:
    response = send(client, *[png(RED)] * (MAX_PICTURES + 1))
    assert error_of(response) == (400, "invalid_request")
    assert "64" in response.json()["error"]["message"]


BROKEN: dict[str, bytes] = {
    "no fields": multipart(),
    "another field": multipart(part(b"x", name="image")),
    "text instead of files": multipart(part(b"x", name="images", filename=None)),
    "a text among the files": multipart(part(b"x", name="images"), part(b"x", name="images", filename=None)),
    "without its last boundary": multipart(*[part(png(RED), name="images")] * 3)[:-9],
    "without its last picture's end": multipart(*[part(png(RED), name="images")] * 3)[:-20],
    "cut short": multipart(part(b"x" * 100, name="images"))[:-60],
    "nothing": b"",
    "no form": png(RED),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_form_without_pictures_is_400(client: TestClient, body: bytes) -> None:
    assert error_of(client.post(ROUTE, content=body, headers=FORM)) == (400, "invalid_request")


@pytest.mark.parametrize("kind", ["image/png", "application/json", "application/x-www-form-urlencoded", "", None])
def test_what_is_no_form_is_400_and_not_read(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    reply = asyncio.run(call(app_of(client), never_read, headers, ROUTE))
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
    assert "images" in reply.body["error"]["message"]


@pytest.mark.parametrize("top_k", ["0", "abc", "", "9" * 5000])
def test_a_top_k_that_is_no_count_is_400(client: TestClient, top_k: str) -> None:
    assert error_of(send(client, png(RED), params={"top_k": top_k})) == (400, "invalid_request")


def test_reading_a_batch_by_get_is_405(client: TestClient) -> None:
    assert error_of(client.get(ROUTE)) == (405, "method_not_allowed")


# --- 401, 408, 413, 429, 500 --------------------------------------------------------------------------


def streamed(body: bytes) -> Iterator[bytes]:
    """Sent in chunks, without a Content-Length."""
    for start in range(0, len(body), 300):
        yield body[start : start + 300]


def form_of(total: int) -> bytes:
    frame = len(multipart(part(b"", name="images"), part(b"", name="images")))
    body = multipart(part(b"x" * 500, name="images"), part(b"x" * (total - frame - 500), name="images"))
    assert len(body) == total
    return body


@pytest.mark.parametrize("how", [bytes, streamed], ids=["declared", "streamed"])
def test_the_cap_of_the_whole_body_holds_to_the_byte(tiny: Live, how: Callable[[bytes], Any]) -> None:
    client = client_of(tiny, max_body_bytes=1000, max_batch_bytes=1500)
    exact = client.post(ROUTE, content=how(form_of(1500)), headers=FORM)
    assert outcomes(exact) == ["unsupported_format"] * 2
    for more in (1501, 15_000):
        refused = client.post(ROUTE, content=how(form_of(more)), headers=FORM)
        assert error_of(refused) == (413, "too_large")
        assert "send fewer or smaller pictures" in refused.json()["error"]["message"]


def test_a_body_declared_too_large_is_not_read(tiny: Live) -> None:
    client = client_of(tiny, max_body_bytes=1000, max_batch_bytes=1500)
    reply = asyncio.run(call(app_of(client), never_read, FORM | {"Content-Length": "1501"}, ROUTE))
    assert (reply.status, reply.body["error"]["code"]) == (413, "too_large")
    assert reply.headers["connection"] == "close"


def test_a_batch_may_always_hold_one_picture_of_the_largest_size(tiny: Live) -> None:
    client = client_of(tiny, max_body_bytes=2000, max_batch_bytes=1000)
    assert outcomes(client.post(ROUTE, content=form_of(2000), headers=FORM)) == ["unsupported_format"] * 2
    assert error_of(client.post(ROUTE, content=form_of(2001), headers=FORM)) == (413, "too_large")


def test_a_slow_batch_is_408_but_may_take_longer_than_one_picture(tiny: Live) -> None:
    app = Edge(tiny, Settings(read_timeout=0.2)).app()
    started = time.perf_counter()
    reply = asyncio.run(call(app, chunks(form_of(1500)[:-100], forever=True), FORM, ROUTE))
    assert (reply.status, reply.body["error"]["code"]) == (408, "body_too_slow")
    assert BATCH_TIMES * 0.2 <= time.perf_counter() - started < 5
    assert BATCH_TIMES > 1


def test_without_the_token_a_batch_is_not_read(tiny: Live) -> None:
    client = client_of(tiny, api_token="a-long-secret")
    reply = asyncio.run(call(app_of(client), never_read, FORM, ROUTE))
    assert (reply.status, reply.body["error"]["code"]) == (401, "unauthorized")
    assert outcomes(send(client, png(RED), headers={"Authorization": "Bearer a-long-secret"})) == ["red"]


def test_a_batch_fills_the_queue_and_leaves_it(tiny: Live) -> None:
    """It is admitted whole where there is room for one picture, and counts as what it is."""
    slow, go = held_by(tiny)
    edge = Edge(slow, Settings(queue=1))
    body = multipart(*[part(png(RED), name="images")] * MAX_PICTURES)
    assert cores() + 1 < MAX_PICTURES

    async def scenario() -> tuple[Reply, Reply, Reply, Reply]:
        app = edge.app()
        waiting = asyncio.create_task(call(app, chunks(body), FORM, ROUTE))
        while edge._engine.admitted < MAX_PICTURES:
            await asyncio.sleep(0.01)
        single = await call(app, never_read)
        batch = await call(app, never_read, FORM, ROUTE)
        go.set()
        return await waiting, single, batch, await call(app, chunks(body), FORM, ROUTE)

    first, single, batch, later = asyncio.run(asyncio.wait_for(scenario(), 60))
    for reply in (single, batch):
        assert (reply.status, reply.body["error"]["code"]) == (429, "overloaded")
    for reply in (first, later):
        assert [result["label"] for result in reply.body["results"]] == ["red"] * MAX_PICTURES
    assert edge._engine.admitted == 0


def test_a_defect_of_ours_is_500_and_leaves_the_queue(tiny: Live) -> None:
    edge = Edge(broken_by(tiny), Settings())
    client = TestClient(edge.app(), raise_server_exceptions=False)
    response = send(client, png(RED), b"no picture", png(BLUE))
    assert error_of(response) == (500, "internal")
    assert "ann" not in response.text
    assert edge._engine.admitted == edge._bodies.buffered == 0


def test_pictures_of_a_batch_stay_in_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette would move anything above 1 MB to a temporary file."""

    def to_disk(self: object) -> None:
        raise AssertionError("the picture was written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", to_disk)
    large = noise(800)
    assert len(large) > 2**20
    assert len(outcomes(send(client, large, large))) == 2
