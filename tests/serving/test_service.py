"""The real server, as `thaw serve` starts it: it waits for the first champion, follows the ledger, ends when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.served import ROOT, Server, served
from serving import artifact as artifacts
from serving.heads import MAX_BYTES
from serving.ledger import opened
from serving.predictor import load_predictor
from serving.store import Store
from tests.conftest import Pipeline, of_another_run
from tests.serving.conftest import model_store_at

SENT = b"words that a client sent as a picture"


@dataclass(frozen=True)
class Place:
    """A server and the directory it was started in."""

    server: Server
    path: Path

    @property
    def home(self) -> Path:
        return self.path / ".thaw"

    def wait_for_version(self, version: int, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while self.server.wait("/v1/model", 200, seconds).json()["version"] != version:
            assert time.monotonic() < deadline, f"expected version {version}; the server's log:\n{self.server.said()}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`thaw serve` where no home is yet, with a model store of its own."""
    path = tmp_path_factory.mktemp("service")
    environment = {"THAW_POLL_SECONDS": "0.2", "THAW_DEVICE": "cpu", "BENTOML_HOME": str(path / "bentoml")}
    with served(environment, ready=False, log=path / "log") as server:
        yield Place(server, path)


def get(place: Place, path: str) -> httpx.Response:
    return place.server.get(path)


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"error"}
    return response.status_code, body["error"]["code"]


def test_the_service_from_its_first_second_to_its_last(place: Place, pipeline: Pipeline) -> None:
    """One server, in order: starting one takes ten seconds."""
    before_the_first_promotion(place)
    follows_the_ledger_without_a_restart(place, pipeline)
    answers_as_the_predictor_does(place, pipeline)
    refuses_as_the_edge_does(place)
    shows_no_pages_of_bentoml(place)
    has_no_web_sockets(place)
    refuses_heads_without_end(place)
    has_metrics(place)
    ends_when_told(place)


def before_the_first_promotion(place: Place) -> None:
    assert error_of(get(place, "/readyz")) == (503, "no_champion")
    response = httpx.post(place.server.url + "/v1/predict", content=SENT, timeout=10)
    assert error_of(response) == (503, "no_champion")
    assert not place.home.exists(), "a server creates no home"


def follows_the_ledger_without_a_restart(place: Place, pipeline: Pipeline) -> None:
    second = of_another_run(pipeline, place.path / "two")
    with model_store_at(place.path / "bentoml"), opened(place.home) as ledger:
        store = Store(place.home, ledger)
        for version, certified in enumerate((pipeline.certified, second), start=1):
            assert store.publish(artifacts.read(certified.artifact), "test", "service").version == version
            ledger.promote("digits", version, who="test", why="service", override=True)
            place.wait_for_version(version)
        ledger.rollback("digits", who="test", why="service")
        place.wait_for_version(1)
    assert get(place, "/readyz").status_code == 200


def answers_as_the_predictor_does(place: Place, pipeline: Pipeline) -> None:
    predictor = load_predictor(artifacts.read(pipeline.certified.artifact), "cpu")
    for path in sorted(pipeline.data.root.rglob("*.png"))[::48]:
        body = httpx.post(place.server.url + "/v1/predict", content=path.read_bytes(), timeout=10).json()
        expected = predictor.answer([predictor.read(path.read_bytes())])[0]
        assert body["label"] == expected.label
        assert body["probability"] == pytest.approx(expected.probability, abs=1e-5)
        found = {score["label"]: score["probability"] for score in body["scores"]}
        assert found == pytest.approx(dict(expected.scores), abs=1e-5)
    model = get(place, "/v1/model").json()
    assert (model["name"], model["version"], model["device"]) == ("digits", 1, "cpu")


def refuses_as_the_edge_does(place: Place) -> None:
    for body, expected in ((b"", 400), (SENT, 415), (b"\x89PNG\r\n\x1a\n", 422), (b"x" * (11 * 2**20), 413)):
        assert error_of(httpx.post(place.server.url + "/v1/predict", content=body, timeout=30))[0] == expected


def shows_no_pages_of_bentoml(place: Place) -> None:
    paths = ["/", "/schema.json", "/docs", "/static_content/swagger-ui.css", "/__is_ready__", "/metrics/"]
    for path in paths:
        response = get(place, path)
        assert error_of(response) == (404, "not_found"), path
        assert "bento" not in response.text.lower()


def has_no_web_sockets(place: Place) -> None:
    url = httpx.URL(place.server.url)
    hello = "GET /x%0aforged HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=10) as client:
        client.sendall((hello + key).encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 404"), "an offer to upgrade is ignored, in BentoML's server too"
    assert "forged" not in place.server.said(), "what clients send is not logged"


def refuses_heads_without_end(place: Place) -> None:
    """BentoML starts uvicorn; that it does so with our bounds is seen here only."""
    url = httpx.URL(place.server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\na: " + b"b" * (MAX_BYTES + 1))
        assert client.recv(1000).startswith(b"HTTP/1.1 431")


def has_metrics(place: Place) -> None:
    response = get(place, "/metrics")
    assert response.status_code == 200
    assert "thaw_requests_total{" in response.text
    assert "bentoml" not in response.text


def ends_when_told(place: Place) -> None:
    server = place.server
    workers = psutil.Process(server.process.pid).children(recursive=True)
    assert workers
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.said()
    with pytest.raises(httpx.TransportError):
        get(place, "/livez")
    assert psutil.wait_procs(workers, timeout=10)[1] == [], "no worker outlives it"
    assert "Traceback" not in server.said()
    assert SENT.decode() not in server.said(), "what clients send is not logged"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "expected THAW_API_TOKEN, found none"),
        ({"THAW_API_TOKEN": ""}, "expected THAW_API_TOKEN, found none"),
        ({"THAW_QUEUE": "abc", "THAW_API_TOKEN": "secret"}, "THAW_QUEUE: expected Input should be a valid integer"),
    ],
    ids=["no token", "an empty token", "a setting that is wrong"],
)
def test_as_a_container_starts_it_it_wants_a_token_and_right_settings(
    tmp_path: Path, environment: dict[str, str], told: str
) -> None:
    """BentoML binds to all addresses; it ends with an error, instead of starting its worker again and again."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("THAW_")}
    places = {"THAW_HOME": str(tmp_path / "home"), "BENTOML_HOME": str(tmp_path / "bentoml"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Thaw", "--host", "127.0.0.1", "--port", "0"]
    done = subprocess.run(command, env=inherited | places | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert told in done.stderr


def test_thaw_serve_wants_a_token_for_an_address_that_others_reach(tmp_path: Path) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("THAW_")}
    command = [sys.executable, "-m", "flows.cli", "serve", "--host", "0.0.0.0"]
    environment = inherited | {"THAW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "THAW_API_TOKEN" in done.stderr and "--insecure" in done.stderr


def test_a_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Even one that was killed: the worker would hold the port and go on answering, unseen."""
    with served({"THAW_DEVICE": "cpu"}, ready=False, log=tmp_path / "log") as server:
        worker = server.worker()
        server.process.kill()
        assert psutil.wait_procs([worker], timeout=20)[1] == []
