"""The components of `thaw up`, as one thing that starts, is watched, and stops."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flows import quiet
from flows.processes import Component
from flows.serve import is_loopback, url_of
from serving.errors import ThawError
from serving.settings import load_settings, model_store

_START_SECONDS = 180.0
_CONFIGURE_SECONDS = 300.0
_LOOK_SECONDS = 0.5
_HEALTH_SECONDS = 5.0
Tell = Callable[[str], None]


class PlatformError(ThawError):
    """A component did not come up."""

    code = "platform"


@dataclass(frozen=True, slots=True)
class Options:
    """What `thaw up` was asked for. `runs`: how many retrains may go on at a time on this pool."""

    host: str
    port: int
    prefect_port: int
    serve: bool
    name: str | None
    device: str | None
    runs: int

    @property
    def api(self) -> str:
        return f"{url_of(self.host, self.prefect_port)}/api"

    @property
    def service(self) -> str:
        return url_of(self.host, self.port)


class Platform:
    """The components, in the order in which they start; they stop in the other."""

    def __init__(self, options: Options, home: Path, tell: Tell) -> None:
        self._options, self._tell = options, tell
        self._environment = _environment(options, home)
        self._told: dict[str, bool] = {}
        python, logs = sys.executable, home / "logs"

        def component(name: str, healthy: Callable[[], bool], *command: str) -> Component:
            return Component(name, (python, *command), self._environment, logs / f"{name}.log", healthy)

        port = str(options.prefect_port)
        self._server = component(
            "prefect", self._server_answers,
            "-m", "flows.prefect_server", "server", "start", "--host", options.host, "--port", port,
        )  # fmt: skip
        worker = f"{socket.gethostname()}-{os.getpid()}"
        self._worker = component(
            "worker", lambda: self._worker_polls(worker),
            "-m", "prefect", "worker", "start", "--pool", "thaw", "--type", "process", "--name", worker,
        )  # fmt: skip
        serve = ["-m", "flows.cli", "serve", "--host", options.host, "--port", str(options.port)]
        serve += ["--name", options.name] if options.name else []
        serve += ["--device", options.device] if options.device else []
        self._service = component("service", self._service_answers, *serve)
        configure = ["-m", "flows.configure", "--runs", str(options.runs)]
        self._configuration = component("configure", lambda: True, *configure)
        self._components = [self._server, *([self._service] if options.serve else []), self._worker]

    def start(self, stopped: Callable[[], bool]) -> None:
        """Returns when every component answers, or when `stopped`."""
        self._server.start()
        if self._options.serve:
            self._service.start()  # needs no orchestrator
        self._wait(self._server, stopped)
        if stopped():
            return
        self._tell("creating work pool, deployments and automations")
        self._configure(stopped)
        if stopped():
            return
        self._worker.start()
        for part in self._components:
            self._wait(part, stopped)

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Starts again what ended, and says when the health of something changes."""
        looked = time.monotonic()
        while not stopped():
            time.sleep(_LOOK_SECONDS)
            for part in self._components:
                said = part.restart_if_ended()
                if said:
                    self._tell(said)
            if time.monotonic() - looked >= _HEALTH_SECONDS:
                looked = time.monotonic()
                for part in self._components:
                    self._tell_health(part)

    def stop(self) -> None:
        """The worker first: its runs end while the server can still be told."""
        for part in reversed(self._components):
            if part.process is not None and part.ended() is None:
                self._tell(f"stopping {part.name}")
            part.stop()
        self._tell("stopped")

    def _wait(self, part: Component, stopped: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not stopped():
            if part.healthy():
                self._tell_health(part, True)
                return
            if part.ended() is not None or time.monotonic() > deadline:
                self._tell_end(part)
                raise PlatformError(f"expected {part.name} to come up, it did not: see {part.log}")
            time.sleep(_LOOK_SECONDS)

    def _tell_health(self, part: Component, known: bool | None = None) -> None:
        healthy = part.healthy() if known is None else known
        if self._told.get(part.name) != healthy:
            self._told[part.name] = healthy
            state = "answers" if healthy else "does not answer"
            self._tell(f"{part.name} {state} (pid {part.pid}, log {part.log})")

    def _tell_end(self, part: Component) -> None:
        for line in part.tail(8).splitlines():
            self._tell(f"  {line}")

    def _configure(self, stopped: Callable[[], bool]) -> None:
        """Pool, queues, deployments and automations; run again, it changes nothing. Returns early when `stopped`."""
        part = self._configuration
        part.start()
        deadline = time.monotonic() + _CONFIGURE_SECONDS
        try:
            while part.ended() is None and not stopped() and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            if stopped():
                return
            self._tell_end(part)  # what went wrong, or a notice
            if part.ended() != 0:
                raise PlatformError(f"expected the deployments to be created, they were not: see {part.log}")
        finally:
            part.stop()

    def _server_answers(self) -> bool:
        return _ok("GET", f"{self._options.api}/health", self._environment)

    def _service_answers(self) -> bool:
        return _ok("GET", f"{self._options.service}/livez", self._environment)

    def _worker_polls(self, worker: str) -> bool:
        url = f"{self._options.api}/work_pools/thaw/workers/filter"
        wanted = {"workers": {"status": {"any_": ["ONLINE"]}}}
        return _ok("POST", url, self._environment, wanted, lambda found: worker in {one["name"] for one in found})


def _ok(
    method: str,
    url: str,
    environment: dict[str, str],
    body: object = None,
    wanted: Callable[[Any], bool] | None = None,
) -> bool:
    secret = environment.get("PREFECT_API_AUTH_STRING")
    user, _, password = secret.partition(":") if secret else ("", "", "")
    try:
        answer = httpx.request(method, url, json=body, timeout=5, auth=(user, password) if secret else None)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and (wanted is None or wanted(answer.json()))


def _environment(options: Options, home: Path) -> dict[str, str]:
    """Of every component: this process's, without the silence that suits a command line."""
    settings = load_settings()
    environment = quiet.without_defaults() | {
        "THAW_HOME": str(home),
        "THAW_LEDGER": settings.ledger or "",
        "BENTOML_HOME": str(model_store()),
        "PREFECT_API_URL": options.api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_UI_API_URL": "/api",  # whatever address the browser uses
        "PREFECT_UI_URL": options.api.removesuffix("/api"),  # links in notifications
        # windows that ended while the server was down are looked at when it is back: see flows/automations.yaml
        "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONUNBUFFERED": "1",
    }
    secret = environment.get("PREFECT_SERVER_API_AUTH_STRING")
    if secret:  # the server asks for it on loopback too
        environment["PREFECT_API_AUTH_STRING"] = secret
    if not is_loopback(options.host):
        environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"
    return environment
