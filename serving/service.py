"""The BentoML service: hosts the HTTP edge, one worker per device.

Run by `thaw serve`, which is `bentoml serve serving.service:Thaw` with its settings in `THAW_*` variables.
BentoML's own pages and error bodies never reach a client: every path but /metrics is the edge's.
"""

from __future__ import annotations

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import DeviceError
from serving.http import Edge
from serving.live import Live
from serving.predictor import gpu_count
from serving.settings import Settings, find_home


@bentoml.service(name="thaw", workers=1, traffic={"timeout": 60})
class Thaw:
    """Answers with the ledger's champion; see `serving/http.py` for the routes."""

    def __init__(self) -> None:
        if settings.device == "cuda" and gpu_count() == 0:
            raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use cpu or auto")
        live.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        live.stop()


class EdgeMiddleware:
    """Sends everything but BentoML's /metrics and lifespan to the edge."""

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app
        self._edge = Edge(live, settings).app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] != "/metrics"
        await (self._edge if ours else self._bentoml)(scope, receive, send)


settings = Settings()
live = Live(find_home(), settings.ledger, settings.name, settings.device, settings.threads, settings.poll_seconds)
Thaw.add_asgi_middleware(EdgeMiddleware)  # type: ignore[attr-defined]  # BentoML's decorator is untyped
