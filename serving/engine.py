"""From a picture's bytes to its answer, off the event loop: a bounded number of pictures decode, wait and predict.

A slot is taken only when the body is in, so a slow client holds nothing. Beyond the queue the answer is 429 at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from serving.batching import IN_FLIGHT_ON_GPU, Served
from serving.errors import PictureError
from serving.live import Loaded
from serving.metrics import Metrics
from serving.preprocess import FORMATS, TIFF
from serving.refusal import Refusal
from serving.settings import Settings, cores

NICENESS = 5


class Engine:
    """The decode threads of one server process, shared by whatever models it answers with."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        at_once = cores()
        # on a GPU up to two threads run the model instead of decoding
        threads = at_once + IN_FLIGHT_ON_GPU * (settings.device != "cpu")
        self._pool = ThreadPoolExecutor(threads, "thaw-predict", initializer=_give_way)
        self._most = at_once + settings.queue
        self._largest = settings.max_body_bytes
        self._formats = (*FORMATS, TIFF) if settings.accept_tiff else FORMATS
        self.admitted = 0

    def check_room(self) -> None:
        """Raises Refusal when everything is taken: before a body is read, and again when it is in."""
        if self.admitted >= self._most:
            raise Refusal(429, "overloaded", "too many requests are waiting: try again shortly", {"Retry-After": "1"})

    async def answers(self, loaded: Loaded, pictures: list[bytes]) -> list[Served | PictureError]:
        """One result per picture, in order. Raises Refusal (429, 503)."""
        self.check_room()
        self.admitted += len(pictures)
        try:
            if len(pictures) == 1:  # the usual case, without a task of its own
                return [await self._answer(loaded, pictures[0])]
            return await asyncio.gather(*(self._answer(loaded, data) for data in pictures))
        finally:
            self.admitted -= len(pictures)

    async def _answer(self, loaded: Loaded, data: bytes) -> Served | PictureError:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Served | PictureError] = loop.create_future()

        def deliver(result: Served | Exception) -> None:
            loop.call_soon_threadsafe(_settle, answered, result)

        self._pool.submit(self._decode, loaded, data, time.perf_counter(), deliver)
        return await answered

    def _decode(self, loaded: Loaded, data: bytes, since: float, deliver: Callable[[Served | Exception], None]) -> None:
        started = time.perf_counter()
        try:
            if len(data) > self._largest:  # of a batch; a single one was not even read
                raise PictureError(413, "too_large", f"expected at most {self._largest} bytes: send a smaller picture")
            pixels = loaded.predictor.read(data, self._formats)
        except MemoryError:
            wait = "too little memory is free to decode this picture: try again shortly"
            deliver(Refusal(503, "overloaded", wait, {"Retry-After": "1"}))
            return
        except Exception as error:  # a PictureError is an answer; anything else must reach the one who waits, too
            deliver(error)
            return
        decoded = time.perf_counter()
        self._metrics.phase("decode", decoded - started)

        def observed(result: Served | Exception) -> None:
            if isinstance(result, Served):
                self._metrics.phase("queue", started - since + result.queue_seconds)
                self._metrics.phase("infer", result.infer_seconds)
                self._metrics.batch_size(result.batch_size)
            deliver(result)

        loaded.batcher.submit(pixels, observed)


def _give_way() -> None:
    """Lets the event loop's thread run first: a refusal must not wait behind the pictures it is refused for."""
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _settle(answered: asyncio.Future[Served | PictureError], result: Served | Exception) -> None:
    if answered.done():  # the client went away meanwhile
        return
    if isinstance(result, Served | PictureError):
        answered.set_result(result)
    else:
        answered.set_exception(result)
