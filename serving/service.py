"""The BentoML service: hosts the HTTP edge, one worker per device.

Run by `thaw serve`, which is `bentoml serve serving.service:Thaw` with its settings in `THAW_*` variables.
BentoML's own pages, metrics and error bodies never reach a client: every path is the edge's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from types import FrameType
from typing import Any

# BentoML asks prometheus_client to keep its figures in files, to add up several workers'; there is one
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
from _bentoml_sdk.service import Service
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import heads
from serving.errors import BadInput, DeviceError
from serving.http import Edge
from serving.live import Live
from serving.session import gpu_count
from serving.settings import find_home, load_settings

LOOK_SECONDS = 1.0
THREADS = 1  # of a session: several run at once, each as fast as a core, and none takes the decoder's

heads.install()
settings = load_settings()
threads = settings.threads or THREADS
live = Live(find_home(), settings.ledger, settings.name, settings.device, threads, settings.poll_seconds)
edge = Edge(live, settings)


class EdgeFirst:
    """The edge answers every request; BentoML has the rest, which is starting and stopping.

    Its own layers around a request would cost time, answer in other shapes, and keep a timer a request for a minute.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app
        self._edge = edge.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._edge if scope["type"] == "http" else self._bentoml)(scope, receive, send)


class Hosted(Service[Any]):
    """BentoML's service with the edge around its application."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        return EdgeFirst(super().to_asgi(is_main))


@bentoml.service(name="thaw", workers=1, service_class=Hosted)
class Thaw:
    """Answers with the ledger's champion; see `serving/http.py` for the routes."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """In the supervisor, which ends with it: a worker that fails is started again and again."""
        if settings.api_token is None and not settings.insecure:  # BentoML's address is all, unless it is told another
            wanted = "THAW_API_TOKEN, found none: set it, or THAW_INSECURE=1 where nobody else reaches this server"
            raise BadInput(f"expected {wanted}")
        if settings.device == "cuda" and gpu_count() == 0:
            raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use cpu or auto")

    def __init__(self) -> None:
        _log_to_stderr()
        _drain_before_the_end()
        _end_with_the_supervisor()
        live.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        live.stop()


def _drain_before_the_end() -> None:
    """On SIGTERM goes on for a while, each answer closing its connection, before uvicorn ends as it would.

    uvicorn closes idle connections at once: a request that is on its way into one at that moment would be lost.
    """
    end = signal.getsignal(signal.SIGTERM)  # uvicorn's
    loop = asyncio.get_running_loop()

    def begin(number: int, _frame: FrameType | None) -> None:
        edge.stopping = True
        if callable(end):
            loop.call_soon_threadsafe(loop.call_later, settings.drain_seconds, end, number, None)

    signal.signal(signal.SIGTERM, begin)


def _end_with_the_supervisor() -> None:
    """A worker whose supervisor was killed would hold the port and go on answering, unseen."""
    supervisor = os.getppid()
    loop = asyncio.get_running_loop()

    def look() -> None:
        if os.getppid() == supervisor:
            loop.call_later(LOOK_SECONDS, look)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    look()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("serving")
    ours.addHandler(handler)
    ours.setLevel(settings.log_level)
    ours.propagate = False
