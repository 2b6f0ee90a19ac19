"""The real server, as `thaw serve` starts it: it waits for the first champion, follows the ledger, ends when told."""

from __future__ import annotations

import contextlib
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
import pytest

from serving import artifact as artifacts
from serving.ledger import opened
from serving.predictor import load_predictor
from serving.store import Store
from tests.conftest import Pipeline
from tests.serving.conftest import model_store_at

ROOT = Path(__file__).parents[2]
SENT = b"words that a client sent as a picture"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str
    place: Path

    @property
    def home(self) -> Path:
        return self.place / ".thaw"

    @property
    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def wait(self, path: str, status: int, seconds: float) -> httpx.Response:
        """The first answer of that status; the log if it does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                response = httpx.get(self.url + path, timeout=5)
            except httpx.TransportError:
                pass  # not listening yet
            else:
                if response.status_code == status:
                    return response
            time.sleep(0.1)
        raise AssertionError(f"expected {status} from {path} within {seconds} s; the server's log:\n{self.log}")

    def wait_for_version(self, version: int, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while self.wait("/v1/model", 200, seconds).json()["version"] != version:
            assert time.monotonic() < deadline, f"expected version {version}; the server's log:\n{self.log}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`thaw serve` where no home is yet, with a model store of its own."""
    place = tmp_path_factory.mktemp("service")
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("THAW_")}
    environment |= {"THAW_POLL_SECONDS": "0.2", "BENTOML_HOME": str(place / "bentoml"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.cli", "serve", "--device", "cpu", "--port", str(port)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True)
    server = Server(process, f"http://127.0.0.1:{port}", place)
    try:
        server.wait("/livez", 200, 90)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended as the test asked it to
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's processes are in it
        process.wait()


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=10)


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"error"}
    return response.status_code, body["error"]["code"]


def test_the_service_from_its_first_second_to_its_last(server: Server, pipeline: Pipeline) -> None:
    """One server, in order: starting one takes ten seconds."""
    before_the_first_promotion(server)
    follows_the_ledger_without_a_restart(server, pipeline)
    answers_as_the_predictor_does(server, pipeline)
    refuses_as_the_edge_does(server)
    shows_no_pages_of_bentoml(server)
    has_metrics(server)
    ends_when_told(server)


def before_the_first_promotion(server: Server) -> None:
    assert error_of(get(server, "/readyz")) == (503, "no_champion")
    response = httpx.post(server.url + "/v1/predict", content=SENT, timeout=10)
    assert error_of(response) == (503, "no_champion")
    assert not server.home.exists(), "a server creates no home"


def follows_the_ledger_without_a_restart(server: Server, pipeline: Pipeline) -> None:
    source = artifacts.read(pipeline.certified.artifact)
    with model_store_at(server.place / "bentoml"), opened(server.home) as ledger:
        store = Store(server.home, ledger)
        for version in (1, 2):
            store.publish(source, "test", "service")
            ledger.promote("digits", version, who="test", why="service", override=True)
            server.wait_for_version(version)
        ledger.rollback("digits", who="test", why="service")
        server.wait_for_version(1)
    assert get(server, "/readyz").status_code == 200


def answers_as_the_predictor_does(server: Server, pipeline: Pipeline) -> None:
    predictor = load_predictor(artifacts.read(pipeline.certified.artifact), "cpu")
    for path in sorted(pipeline.data.root.rglob("*.png"))[::48]:
        body = httpx.post(server.url + "/v1/predict", content=path.read_bytes(), timeout=10).json()
        expected = predictor.answer([predictor.read(path.read_bytes())])[0]
        assert body["label"] == expected.label
        assert body["probability"] == pytest.approx(expected.probability, abs=1e-5)
        found = {score["label"]: score["probability"] for score in body["scores"]}
        assert found == pytest.approx(dict(expected.scores), abs=1e-5)
    model = get(server, "/v1/model").json()
    assert (model["name"], model["version"], model["device"]) == ("digits", 1, "cpu")


def refuses_as_the_edge_does(server: Server) -> None:
    for body, expected in ((b"", 400), (SENT, 415), (b"\x89PNG\r\n\x1a\n", 422), (b"x" * (11 * 2**20), 413)):
        assert error_of(httpx.post(server.url + "/v1/predict", content=body, timeout=30))[0] == expected


def shows_no_pages_of_bentoml(server: Server) -> None:
    paths = ["/", "/docs.json", "/schema.json", "/docs", "/static_content/swagger-ui.css", "/__is_ready__", "/metrics/"]
    for path in paths:
        response = get(server, path)
        assert error_of(response) == (404, "not_found"), path
        assert "bento" not in response.text.lower()


def has_metrics(server: Server) -> None:
    response = get(server, "/metrics")
    assert response.status_code == 200
    assert "bentoml_service_request_total" in response.text


def ends_when_told(server: Server) -> None:
    group = server.process.pid
    assert members(group)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log
    with pytest.raises(httpx.TransportError):
        get(server, "/livez")
    deadline = time.monotonic() + 10
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(group) == [], "no worker outlives it"
    assert "Traceback" not in server.log
    assert SENT.decode() not in server.log, "what clients send is not logged"


def members(group: int) -> list[int]:
    """Running processes of that process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(pgid) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
