"""What bodies keep in memory is bounded, is given back however a request ends, and nothing is read for nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.http import Edge
from serving.live import Live
from serving.settings import Settings
from tests.serving.edges import (
    BLUE,
    FORM,
    RED,
    Headers,
    Receive,
    Reply,
    broken_by,
    buffered,
    call,
    chunks,
    held_by,
    multipart,
    never_read,
    part,
    png,
)

BATCH = "/v1/predict/batch"
BOTH: dict[str, Headers] = {"/v1/predict": {}, BATCH: FORM}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# --- the budget ---------------------------------------------------------------------------------------


def test_many_stalled_bodies_are_refused_once_they_fill_the_memory(tiny: Live) -> None:
    edge = Edge(tiny, Settings(max_buffered_bytes=1000))
    picture = png(RED)
    assert len(picture) <= 100

    async def scenario() -> tuple[list[Reply], Reply]:
        app = edge.app()
        stalled = [asyncio.create_task(call(app, chunks(b"x" * 100, forever=True))) for _ in range(10)]
        await until(lambda: buffered(edge) == 1000)
        refused = [await call(app, chunks(b"x"), headers, path) for path, headers in BOTH.items() for _ in range(3)]
        assert buffered(edge) == 1000, "who was refused kept nothing"
        assert not any(task.done() for task in stalled), "who came first stays"
        stalled.pop().cancel()
        await until(lambda: buffered(edge) == 900)
        answered = await call(app, chunks(picture))
        for task in stalled:
            task.cancel()
        await until(lambda: buffered(edge) == 0)
        return refused, answered

    refused, answered = asyncio.run(scenario())
    for reply in refused:
        assert (reply.status, reply.body["error"]["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["connection"] == "close"
    assert answered.status == 200


def test_the_budget_holds_to_the_byte(tiny: Live) -> None:
    for more, expected in ((0, 200), (1, 503)):
        picture = png(RED)
        edge = Edge(tiny, Settings(max_buffered_bytes=len(picture) + 50 - more))

        async def scenario(edge: Edge = edge, picture: bytes = picture) -> Reply:
            app = edge.app()
            stalled = asyncio.create_task(call(app, chunks(b"x" * 50, forever=True)))
            await until(lambda: buffered(edge) == 50)
            reply = await call(app, chunks(picture))
            stalled.cancel()
            await until(lambda: buffered(edge) == 0)
            return reply

        assert asyncio.run(scenario()).status == expected


def test_a_body_that_outgrows_what_is_left_gives_back_all_it_took(tiny: Live) -> None:
    edge = Edge(tiny, Settings(max_buffered_bytes=1000))
    reply = asyncio.run(call(edge.app(), chunks(*[b"x" * 300] * 4)))
    assert (reply.status, reply.body["error"]["code"]) == (503, "overloaded")
    assert buffered(edge) == 0


def test_a_body_counts_until_its_answer_is_made(tiny: Live) -> None:
    slow, go = held_by(tiny)
    edge = Edge(slow, Settings())
    picture = png(RED)

    async def scenario() -> Reply:
        waiting = asyncio.create_task(call(edge.app(), chunks(picture)))
        await until(lambda: edge._engine.admitted == 1)
        assert buffered(edge) == len(picture)
        go.set()
        return await waiting

    assert asyncio.run(scenario()).status == 200
    assert buffered(edge) == 0


# --- however it ends ----------------------------------------------------------------------------------


def going_away_after(*bodies: bytes) -> Receive:
    waiting = list(bodies)

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": True}
        return {"type": "http.disconnect"}

    return receive


def form(*pictures: bytes, field: str = "image") -> bytes:
    return multipart(*(part(data, name=field) for data in pictures))


Kind = tuple[str, Headers, Callable[[], Receive], int]
ENDS: dict[str, Kind] = {
    "answered": ("/v1/predict", {}, lambda: chunks(png(RED)), 200),
    "answered, in pieces": ("/v1/predict", {}, lambda: chunks(png(RED)[:9], png(RED)[9:]), 200),
    "answered, a form": ("/v1/predict", FORM, lambda: chunks(form(png(RED))), 200),
    "answered, a batch": (BATCH, FORM, lambda: chunks(form(png(RED), b"bad", png(BLUE), field="images")), 200),
    "nothing": ("/v1/predict", {}, chunks, 400),
    "no picture": ("/v1/predict", {}, lambda: chunks(b"hello"), 415),
    "half a picture": ("/v1/predict", {}, lambda: chunks(png(RED)[:40]), 422),
    "too large": ("/v1/predict", {}, lambda: chunks(*[b"x" * 300] * 5), 413),
    "too large, a form": ("/v1/predict", FORM, lambda: chunks(form(b"x" * 300)[:300], *[b"x" * 300] * 4), 413),
    "too large, a batch": (BATCH, FORM, lambda: chunks(form(b"x", field="images")[:90], *[b"x" * 300] * 9), 413),
    "a broken form": ("/v1/predict", FORM, lambda: chunks(b"--xyz\r\n", b"no header", b"at all"), 400),
    "another field": ("/v1/predict", FORM, lambda: chunks(form(b"x", field="mask")), 400),
    "no field of a batch": (BATCH, FORM, lambda: chunks(form(b"x", field="mask")), 400),
    "gone at once": ("/v1/predict", {}, going_away_after, 400),
    "gone midway": ("/v1/predict", {}, lambda: going_away_after(b"x" * 300), 400),
    "gone midway, a form": ("/v1/predict", FORM, lambda: going_away_after(form(b"x" * 300)[:200]), 400),
    "gone midway, a batch": (BATCH, FORM, lambda: going_away_after(form(b"x" * 300, field="images")[:200]), 400),
    "too slow": ("/v1/predict", {}, lambda: chunks(b"x" * 300, forever=True), 408),
    "too slow, a form": ("/v1/predict", FORM, lambda: chunks(form(b"x" * 300)[:200], forever=True), 408),
    "too slow, a batch": (BATCH, FORM, lambda: chunks(form(b"x", field="images")[:90], forever=True), 408),
}


def edge_of(live: Live, read_timeout: float = 0.2) -> Edge:
    return Edge(live, Settings(max_body_bytes=1000, max_batch_bytes=2000, read_timeout=read_timeout))


def ended(edge: Edge, kind: Kind) -> Awaitable[Reply]:
    path, headers, receive, _ = kind
    return call(edge.app(), receive(), headers, path)


@pytest.mark.parametrize("kind", ENDS.values(), ids=ENDS)
def test_the_memory_is_given_back_however_a_request_ends(tiny: Live, kind: Kind) -> None:
    edge = edge_of(tiny)

    async def scenario() -> list[int]:
        return [(await ended(edge, kind)).status for _ in range(2)]

    assert asyncio.run(scenario()) == [kind[3]] * 2
    assert edge._bodies.buffered == edge._engine.admitted == 0


def test_and_when_many_end_in_all_these_ways_at_once(tiny: Live) -> None:
    edge = edge_of(tiny, read_timeout=2)  # all take their turn on a busy machine, and none but the slow may be late
    kinds = [kind for kind in ENDS.values() for _ in range(3)]
    random.Random(0).shuffle(kinds)

    async def scenario() -> list[Reply]:
        return await asyncio.gather(*(ended(edge, kind) for kind in kinds))

    assert [reply.status for reply in asyncio.run(scenario())] == [kind[3] for kind in kinds]
    assert edge._bodies.buffered == edge._engine.admitted == 0


def test_and_when_the_server_itself_has_a_defect(tiny: Live) -> None:
    edge = edge_of(broken_by(tiny))

    async def scenario() -> None:
        for name in ("answered", "answered, a form", "answered, a batch"):
            await ended(edge, (*ENDS[name][:-1], 500))

    asyncio.run(scenario())
    assert edge._bodies.buffered == edge._engine.admitted == 0


# --- what is not read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "headers"), BOTH.items(), ids=BOTH)
def test_before_the_first_champion_no_byte_is_read(path: str, headers: Headers) -> None:
    edge = Edge(Live(Path("unused")), Settings())
    reply = asyncio.run(call(edge.app(), never_read, headers, path))
    assert (reply.status, reply.body["error"]["code"]) == (503, "no_champion")
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("path", "headers"), BOTH.items(), ids=BOTH)
def test_beyond_the_queue_no_byte_is_read(tiny: Live, path: str, headers: Headers) -> None:
    slow, go = held_by(tiny)
    edge = Edge(slow, Settings(queue=1))

    async def scenario() -> Reply:
        app = edge.app()
        waiting = [asyncio.create_task(call(app, chunks(png(RED)))) for _ in range(edge._engine._most)]
        await until(lambda: edge._engine.admitted == edge._engine._most)
        refused = await call(app, never_read, headers, path)
        go.set()
        assert [reply.status for reply in await asyncio.gather(*waiting)] == [200] * len(waiting)
        return refused

    reply = asyncio.run(scenario())
    assert (reply.status, reply.body["error"]["code"]) == (429, "overloaded")
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("path", "headers"), BOTH.items(), ids=BOTH)
def test_a_champion_that_comes_while_a_body_is_read_answers_it(tiny: Live, path: str, headers: Headers) -> None:
    """The model is chosen when the body is in: a slow upload never holds an old one in memory."""
    changing = Live(Path("unused"))
    changing.current = broken_by(tiny).current  # it would raise
    body = png(RED) if path == "/v1/predict" else form(png(RED), field="images")
    pieces = chunks(body[:40], body[40:])

    async def receive() -> dict[str, Any]:
        changing.current = tiny.current
        return await pieces()

    assert asyncio.run(call(Edge(changing, Settings()).app(), receive, headers, path)).status == 200
