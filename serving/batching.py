"""Pictures that arrive while the model is busy are answered together; one that finds it idle does not wait.

The thread that has decoded a picture runs the model itself if fewer than `in_flight` batches are running, and goes on
until nothing is waiting; otherwise it leaves its picture to those threads and decodes the next one. So batches grow
with the load and no timer delays anybody. Where threads decode no faster than they predict, as on a CPU, every batch
is one picture, which is fastest there (docs/decisions/0005-batching.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.predictor import Answer, Predictor
from serving.preprocess import Pixels
from serving.session import BATCH
from serving.settings import cores

logger = logging.getLogger(__name__)

IN_FLIGHT_ON_GPU = 2  # while one batch is copied the other computes


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and what it took: seconds spent waiting for the model and in it, and how many shared its batch."""

    answer: Answer
    queue_seconds: float
    infer_seconds: float
    batch_size: int


Deliver = Callable[[Served | Exception], None]
Infer = Callable[[Sequence[Pixels]], list[Answer]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    pixels: Pixels
    deliver: Deliver
    since: float


def batcher_of(predictor: Predictor, threads: int) -> Batcher:
    """With as many batches at once as keep the device busy; `threads` are those of one session."""
    on_cpu = max(1, cores() // threads)
    return Batcher(predictor.answer, IN_FLIGHT_ON_GPU if predictor.device == "cuda" else on_cpu)


class Batcher:
    """Runs `infer` on at most `largest` pictures at a time, in at most `in_flight` threads at once."""

    def __init__(self, infer: Infer, in_flight: int, largest: int = BATCH) -> None:
        self._infer = infer
        self._in_flight = in_flight
        self._largest = largest
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._lock = threading.Lock()

    def submit(self, pixels: Pixels, deliver: Deliver) -> None:
        """Answers through `deliver`, from this thread or another. This one may stay to answer others too."""
        with self._lock:
            self._waiting.append(_Waiting(pixels, deliver, time.perf_counter()))
            if self._running >= self._in_flight:
                return
            self._running += 1
        while batch := self._next_batch():
            self._run(batch)

    def _next_batch(self) -> list[_Waiting]:
        """What waits, oldest first; when that is nothing, this thread's place is free in the same moment."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._largest))]
            self._running -= not batch
            return batch

    def _run(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        results: list[Served | Exception]
        try:
            answers = self._infer([waiting.pixels for waiting in batch])
            seconds = time.perf_counter() - started
            results = [
                Served(answer, started - waiting.since, seconds, len(batch))
                for waiting, answer in zip(batch, answers, strict=True)
            ]
        except Exception as error:  # whatever a runtime can raise belongs to those who wait, or they wait for ever
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            try:
                waiting.deliver(result)
            except Exception:  # one that cannot be told, e.g. as its event loop has ended, must not keep the others
                logger.warning("an answer could not be delivered", exc_info=True)
