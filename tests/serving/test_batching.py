"""Pictures wait only while the model is busy, share a batch only then, and each gets its own answer whatever happens.

The model is held and let go by events: nothing here depends on how fast a thread is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.artifact import Rule
from serving.batching import IN_FLIGHT_ON_GPU, Batcher, Deliver, Served, batcher_of
from serving.predictor import Answer, Predictor
from serving.preprocess import Pixels
from tests.serving.tiny import CLASSES, PREPROCESSING, SIDE, write_model

SECONDS = 30  # no test waits that long for what works


def picture(value: int) -> Pixels:
    return np.full((2, 2, 3), value, np.uint8)


class Model:
    """Answers with a picture's value, notes what ran together, and can be held in the middle of a batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.most = 0  # calls at once
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.bad: int | None = None  # a picture that makes its whole batch fail
        self._now = 0
        self._lock = threading.Lock()

    def infer(self, pixels: Sequence[Pixels]) -> list[Answer]:
        values = [int(array[0, 0, 0]) for array in pixels]
        with self._lock:
            self.batches.append(values)
            self.threads.append(threading.get_ident())
            self._now += 1
            self.most = max(self.most, self._now)
        self.entered.release()
        try:
            assert self.go.wait(SECONDS)
            if self.bad in values:
                raise RuntimeError("out of memory")
            return [Answer(str(value), 1.0, ()) for value in values]
        finally:
            with self._lock:
                self._now -= 1


class Inbox:
    """What was delivered, in its order."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Served | Exception]] = []

    def of(self, value: int) -> Deliver:
        return lambda result: self.found.append((value, result))

    def labels(self) -> list[tuple[int, str]]:
        return [(value, result.answer.label) for value, result in self.found if isinstance(result, Served)]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def held(model: Model, batcher: Batcher, inbox: Inbox, *values: int) -> list[threading.Thread]:
    """One thread for each picture, all inside the model, where they stay until `model.go`."""
    model.go.clear()
    threads = [threading.Thread(target=batcher.submit, args=(picture(v), inbox.of(v)), daemon=True) for v in values]
    for thread in threads:
        thread.start()
        assert model.entered.acquire(timeout=SECONDS)
    return threads


def let_go(model: Model, threads: list[threading.Thread]) -> None:
    model.go.set()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


# --- who runs what ------------------------------------------------------------------------------------


def test_a_lone_picture_is_answered_at_once_by_its_own_thread(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, in_flight=1), Inbox()
    for value in range(5):
        batcher.submit(picture(value), inbox.of(value))
        assert inbox.labels() == [(v, str(v)) for v in range(value + 1)], "before submit returns"
    assert model.batches == [[0], [1], [2], [3], [4]]
    assert set(model.threads) == {threading.get_ident()}
    for _, result in inbox.found:
        assert isinstance(result, Served)
        assert result.batch_size == 1
        assert 0 <= result.queue_seconds < 1
        assert 0 <= result.infer_seconds < 1


def test_pictures_that_arrive_while_the_model_is_busy_are_answered_together(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, in_flight=1), Inbox()
    threads = held(model, batcher, inbox, 0)
    for value in range(1, 6):
        batcher.submit(picture(value), inbox.of(value))  # does not wait: the busy thread will answer
    assert inbox.found == []
    let_go(model, threads)
    assert model.batches == [[0], [1, 2, 3, 4, 5]]
    assert inbox.labels() == [(value, str(value)) for value in range(6)]
    assert set(model.threads) == {threads[0].ident}
    assert [result.batch_size for _, result in inbox.found if isinstance(result, Served)] == [1, 5, 5, 5, 5, 5]


def test_the_time_spent_waiting_is_told_apart_from_the_models(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, in_flight=1), Inbox()
    threads = held(model, batcher, inbox, 0)
    batcher.submit(picture(1), inbox.of(1))
    threading.Event().wait(0.2)
    let_go(model, threads)
    (_, first), (_, second) = inbox.found
    assert isinstance(first, Served)
    assert isinstance(second, Served)
    assert first.queue_seconds < 0.2 <= first.infer_seconds
    assert second.infer_seconds < 0.2 <= second.queue_seconds


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_never_more_than_in_flight_run_at_once(model: Model, in_flight: int) -> None:
    batcher, inbox = Batcher(model.infer, in_flight), Inbox()
    threads = held(model, batcher, inbox, *range(in_flight))
    for value in range(in_flight, 100):
        batcher.submit(picture(value), inbox.of(value))
    assert model.most == len(model.batches) == in_flight
    let_go(model, threads)
    assert model.most == in_flight
    assert sorted(inbox.labels()) == [(value, str(value)) for value in range(100)]


@pytest.mark.parametrize(("largest", "sizes"), [(32, [1, 32, 32, 6]), (70, [1, 70]), (69, [1, 69, 1]), (1, [1] * 71)])
def test_never_more_than_the_largest_batch_and_the_oldest_first(model: Model, largest: int, sizes: list[int]) -> None:
    batcher, inbox = Batcher(model.infer, 1, largest), Inbox()
    threads = held(model, batcher, inbox, 0)
    for value in range(1, 71):
        batcher.submit(picture(value), inbox.of(value))
    let_go(model, threads)
    assert [len(batch) for batch in model.batches] == sizes
    assert [value for batch in model.batches for value in batch] == list(range(71))


def test_without_a_number_32_is_the_largest(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, 1), Inbox()
    threads = held(model, batcher, inbox, 0)
    for value in range(1, 100):
        batcher.submit(picture(value), inbox.of(value))
    let_go(model, threads)
    assert [len(batch) for batch in model.batches] == [1, 32, 32, 32, 3]


# --- what fails ---------------------------------------------------------------------------------------


def test_an_exception_reaches_every_picture_of_its_batch_and_no_other(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, in_flight=1, largest=4), Inbox()
    model.bad = 3
    threads = held(model, batcher, inbox, 0)
    for value in range(1, 9):
        batcher.submit(picture(value), inbox.of(value))
    let_go(model, threads)
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    failed = {value: str(result) for value, result in inbox.found if isinstance(result, Exception)}
    assert failed == dict.fromkeys([1, 2, 3, 4], "out of memory")
    assert inbox.labels() == [(value, str(value)) for value in (0, 5, 6, 7, 8)]


def test_a_model_that_failed_is_asked_again(model: Model) -> None:
    batcher, inbox = Batcher(model.infer, in_flight=1), Inbox()
    for value in (7, 7, 7, 8):
        model.bad = 7
        batcher.submit(picture(value), inbox.of(value))
    assert [type(result) for _, result in inbox.found] == [RuntimeError, RuntimeError, RuntimeError, Served]


# --- many threads -------------------------------------------------------------------------------------


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return Predictor(write_model(tmp_path / "model.onnx"), CLASSES, PREPROCESSING, Rule(), "cpu", threads=1)


@pytest.mark.parametrize("in_flight", [1, 2, 16])
def test_every_thread_gets_the_answers_of_its_own_pictures(predictor: Predictor, in_flight: int, often: None) -> None:
    colours = np.random.default_rng(in_flight).integers(0, 256, (16, 50, 3), dtype=np.uint8)
    batcher = Batcher(predictor.answer, in_flight)
    start = threading.Barrier(16)

    def ask(thread: int) -> list[Served]:
        start.wait(SECONDS)
        answers: list[Served] = []
        for colour in colours[thread]:
            answered: Future[Served] = Future()
            batcher.submit(np.full((SIDE, SIDE, 3), colour, np.uint8), settle(answered))
            answers.append(answered.result(SECONDS))
        return answers

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    pictures = np.broadcast_to(colours[:, :, None, None], (16, 50, SIDE, SIDE, 3))
    for answers, mine in zip(found, pictures, strict=True):
        for served, alone in zip(answers, predictor.answer(list(mine)), strict=True):
            assert served.answer.label == alone.label
            assert dict(served.answer.scores) == pytest.approx(dict(alone.scores), abs=1e-6)
    assert len({served.answer.probability for answers in found for served in answers}) > 700, "the control: they differ"


def settle(answered: Future[Any]) -> Deliver:
    def deliver(result: Served | Exception) -> None:
        if isinstance(result, Exception):
            answered.set_exception(result)
        else:
            answered.set_result(result)  # a second answer would raise here

    return deliver


class Polite:
    """A lock after whose release others go first: whatever must happen under one holding of it, but does not, shows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        time.sleep(0.0005)


def test_nothing_is_lost_when_a_place_becomes_free_as_another_picture_comes() -> None:
    """Two pictures and then no other that could take a forgotten one along; the second comes at any moment."""
    model = Model()
    batcher = Batcher(model.infer, in_flight=1)
    batcher._lock = Polite()  # type: ignore[assignment]

    def ask(value: int, delay: float) -> Future[Served]:
        answered: Future[Served] = Future()
        time.sleep(delay)
        batcher.submit(picture(value), settle(answered))
        return answered

    with ThreadPoolExecutor(2) as pool:
        for step in range(150):
            asked = [pool.submit(ask, 0, 0.0), pool.submit(ask, 1, step % 50 / 10_000)]
            found = [each.result(SECONDS).result(5).answer.label for each in asked]
            assert found == ["0", "1"]
    assert model.most == 1


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_flood_is_answered_to_the_last_and_leaves_the_model_idle(in_flight: int, often: None) -> None:
    model = Model()
    batcher, inbox = Batcher(model.infer, in_flight), Inbox()

    def flood(thread: int) -> None:
        for value in range(thread * 15, thread * 15 + 15):
            batcher.submit(picture(value), inbox.of(value))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(flood, range(16)))
    assert sorted(inbox.labels()) == [(value, str(value)) for value in range(240)]
    assert model.most <= in_flight
    before = len(model.batches)
    batcher.submit(picture(250), inbox.of(250))
    assert model.batches[before:] == [[250]]
    assert model.threads[-1] == threading.get_ident(), "every place is free again"


# --- how many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "cores", "threads", "expected"),
    [
        ("cpu", 8, 1, 8), ("cpu", 8, 3, 2), ("cpu", 8, 8, 1), ("cpu", 2, 16, 1), ("cpu", 1, 1, 1),
        ("cuda", 8, 1, IN_FLIGHT_ON_GPU), ("cuda", 1, 4, IN_FLIGHT_ON_GPU),
    ],
)  # fmt: skip
def test_as_many_batches_at_once_as_the_device_has_use_for(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, device: str, cores: int, threads: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(predictor, "device", device)
    held_model = Model()
    monkeypatch.setattr(predictor, "answer", held_model.infer)
    batcher, inbox = batcher_of(predictor, threads), Inbox()
    inside = held(held_model, batcher, inbox, *range(expected))
    batcher.submit(picture(99), inbox.of(99))  # returns, since all places are taken
    assert held_model.most == len(held_model.batches) == expected
    let_go(held_model, inside)
    assert len(inbox.found) == expected + 1
