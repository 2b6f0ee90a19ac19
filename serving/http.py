"""The HTTP edge: its routes, and the one shape of every answer and every error.

In order: bearer token, room, declared length, streamed byte cap with a read deadline (`serving/bodies.py`), exactly one
picture; then, in a bounded pool off the event loop, decode and predict (`serving/engine.py`). No route promotes.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving import answers, page
from serving.answers import Item
from serving.batching import Served
from serving.bodies import Bodies
from serving.engine import Engine
from serving.errors import PictureError
from serving.live import Live, Loaded
from serving.metrics import CONTENT_TYPE, Metrics
from serving.openapi import document
from serving.refusal import Error, Refusal
from serving.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)
access = logging.getLogger("serving.access")


class Edge:
    """The routes of one server process."""

    def __init__(self, live: Live, settings: Settings) -> None:
        self.stopping = False  # set when the process was told to end and still answers
        self._live = live
        self._settings = settings
        self._metrics = Metrics()
        self._bodies = Bodies(settings)
        self._engine = Engine(settings, self._metrics)
        self._metrics.watch(live, lambda: self._engine.admitted, lambda: self._bodies.buffered)
        self._document = document(settings)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            self._route("/v1/predict", self.predict, "POST"),
            self._route("/v1/predict/batch", self.predict_batch, "POST"),
            self._route("/v1/model", self.model),
            self._route("/metrics", self.metrics),
            self._route("/livez", self.alive, public=True),
            self._route("/healthz", self.alive, public=True),
            self._route("/readyz", self.ready, public=True),
            self._route("/docs.json", self.docs, public=True),
            self._route("/ui/", self.ui, public=True),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route})
        app.router.redirect_slashes = False  # a redirect would echo the client's Host, and is no JSON
        return app

    async def alive(self, request: Request) -> Response:
        """200 while the process answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """200 only when a champion is loaded, warmed, proven, on the device asked for, and the server is to stay."""
        if self.stopping:
            raise Refusal(503, "stopping", "this server is about to end: ask another one", {"Retry-After": "5"})
        self._champion(public=True)
        return JSONResponse({"status": "ready"})

    async def model(self, request: Request) -> Response:
        """What answers here: version, digest, classes, rule, metrics, verdict, provider."""
        return JSONResponse(answers.model(self._champion(), self._live.last_error))

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def docs(self, request: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(self._document)

    async def ui(self, request: Request) -> Response:
        """The web page."""
        return Response(page.HTML, media_type="text/html", headers=page.HEADERS)

    async def predict(self, request: Request) -> Response:
        """One picture in, one decision out."""
        top_k = _top_k(request)
        self._champion()  # and room, before any byte is read
        self._engine.check_room()
        started = time.perf_counter()
        async with self._bodies.picture(request) as data:
            self._metrics.phase("read", time.perf_counter() - started)
            loaded = self._champion()
            (result,) = await self._engine.answers(loaded, [data])
        if isinstance(result, PictureError):
            raise Refusal(result.status, result.code, str(result))
        self._metrics.decided(loaded, result.answer.label, result.answer.probability)
        return JSONResponse(answers.prediction(loaded, result.answer, top_k, request.state.id))

    async def predict_batch(self, request: Request) -> Response:
        """Up to 64 pictures in, a decision or an error for each out, all from one model."""
        top_k = _top_k(request)
        self._champion()  # and room, before any byte is read
        self._engine.check_room()
        started = time.perf_counter()
        async with self._bodies.pictures(request) as pictures:
            self._metrics.phase("read", time.perf_counter() - started)
            loaded = self._champion()
            results = await self._engine.answers(loaded, pictures)
        items = [self._item(loaded, result, top_k) for result in results]
        return JSONResponse(answers.batch(loaded, items, request.state.id))

    def _item(self, loaded: Loaded, result: Served | PictureError, top_k: int) -> Item | Error:
        if isinstance(result, PictureError):
            self._metrics.rejected(result.code)
            return Refusal(result.status, result.code, str(result)).body()
        self._metrics.decided(loaded, result.answer.label, result.answer.probability)
        return answers.item(result.answer, top_k)

    def _route(self, path: str, handler: Handler, method: str = "GET", *, public: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            request.state.id = uuid.uuid4().hex
            started = time.perf_counter()
            try:
                if not public:
                    self._authorize(request)
                response = await handler(request)
            except Refusal as refusal:
                response = self._refused(refusal)
            except Exception:  # whatever it is, the client gets an answer and the log says where
                logger.exception("a defect, in %s, request %s", path, request.state.id)
                response = Refusal(500, "internal", "this is a defect of the server; its log says where").response()
            return self._finished(request.state.id, path, response, started)

        return Route(path, endpoint, methods=[method])

    def _refused(self, refusal: Refusal) -> Response:
        self._metrics.rejected(refusal.code)
        return refusal.response()

    def _finished(self, request_id: str, route: str, response: Response, started: float) -> Response:
        """Counts, logs and marks an answer. The route, not the path: a path is the client's words."""
        response.headers["X-Request-Id"] = request_id
        if self.stopping:
            response.headers["Connection"] = "close"
        self._metrics.answered(route, response.status_code)
        if access.isEnabledFor(logging.INFO):
            milliseconds = round(1000 * (time.perf_counter() - started), 1)
            told = {"request_id": request_id, "route": route, "status": response.status_code, "ms": milliseconds}
            access.info("%s", json.dumps(told))
        return response

    def _authorize(self, request: Request) -> None:
        token = self._settings.api_token
        if token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Starlette reads header bytes as latin-1; this gives them back, so that a token may be any UTF-8
        right = hmac.compare_digest(given.encode("latin-1"), token.get_secret_value().encode())
        if not (right and scheme.lower() == "bearer"):
            message = "expected Authorization: Bearer with the server's token"
            raise Refusal(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def _champion(self, *, public: bool = False) -> Loaded:
        """`public`: without what went wrong, which names folders and hosts."""
        loaded = self._live.current
        if loaded is None:
            error = self._live.last_error
            code = "no_champion" if error is None else "champion_not_loaded"
            reason = error or "no model was promoted yet: `thaw promote NAME:VERSION`"
            if public and error is not None:
                reason = "the champion could not be loaded: /v1/model, `thaw show` and the log say why"
            raise Refusal(503, code, reason, {"Retry-After": "5"})
        return loaded

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        code, message = "invalid_request", error.detail
        if error.status_code == 404:
            code, message = "not_found", "expected a path of /docs.json, found another: for the web page open /ui/"
        if error.status_code == 405:
            code = "method_not_allowed"
            message = f"expected {headers['Allow']} for this path, found {request.method}: see /docs.json"
        response = self._refused(Refusal(error.status_code, code, message, headers))
        return self._finished(uuid.uuid4().hex, "other", response, time.perf_counter())


def _top_k(request: Request) -> int:
    value = request.query_params.get("top_k", "5")
    if not (value.isascii() and value.isdigit() and int(value[:9]) >= 1 and len(value) < 9):
        raise Refusal(400, "invalid_request", f"expected top_k as a whole number from 1, found {value[:40]!r}")
    return int(value)
