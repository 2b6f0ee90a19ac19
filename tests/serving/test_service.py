"""The real server: `bentoml serve` as `thaw serve` starts it, on a port of its own, over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import artifact as artifacts
from serving.ledger import opened
from serving.predictor import load_predictor
from serving.store import Store
from tests.conftest import Pipeline

START_SECONDS, PICK_UP_SECONDS = 90, 20


@dataclass(frozen=True)
class Server:
    home: Path
    address: str
    process: subprocess.Popen[bytes]

    def get(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body; urllib's default content type, which curl's --data-binary sends as well."""
        try:
            with urllib.request.urlopen(self.address + path, data=body, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def wait(self, path: str, status: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.get(path)[0] == status:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{path} did not answer {status} within {seconds} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("served")
    home = place / ".thaw"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
    log = (place / "server.log").open("wb")
    process = subprocess.Popen(command, cwd=place, stderr=log, stdout=log, start_new_session=True)
    running = Server(home, f"http://127.0.0.1:{port}", process)
    try:
        running.wait("/livez", 200, START_SECONDS)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended as the test asked it to
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def error_code(body: bytes) -> Any:
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    return error["code"]


def test_a_life_of_a_server(server: Server, pipeline: Pipeline) -> None:
    """One test, since each part needs the one before: no champion, the first, the next, the way back, the end."""
    picture = sorted(pipeline.data.root.rglob("*.png"))[0].read_bytes()
    assert not server.home.exists(), "serving must not create a home"
    assert server.get("/readyz")[0] == 503
    status, body = server.get("/v1/predict", picture)
    assert (status, error_code(body)) == (503, "no_champion")

    artifact = artifacts.read(pipeline.certified.artifact)
    with opened(server.home) as ledger:
        store = Store(server.home, ledger)
        for version in (1, 2):
            store.publish(artifact, "tester", "test")
            ledger.promote("digits", version, who="tester", why="test")
            wait_for_version(server, version)
        check_answer(server, artifact, picture)
        check_foreign_pages(server)
        ledger.rollback("digits", who="tester", why="test")
        wait_for_version(server, 1)

    assert b"bentoml_service_request_total" in server.get("/metrics")[1]
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0


def wait_for_version(server: Server, version: int) -> None:
    server.wait("/readyz", 200, PICK_UP_SECONDS)
    deadline = time.monotonic() + PICK_UP_SECONDS
    while json.loads(server.get("/v1/model")[1])["version"] != version:
        assert time.monotonic() < deadline, f"version {version} was not picked up"
        time.sleep(0.2)


def check_answer(server: Server, artifact: artifacts.Artifact, picture: bytes) -> None:
    status, body = server.get("/v1/predict", picture)
    answer = json.loads(body)
    predictor = load_predictor(artifact, "cpu")
    (expected,) = predictor.answer([predictor.read(picture)])
    assert (status, answer["label"]) == (200, expected.label)
    served = [score["probability"] for score in answer["scores"]]
    np.testing.assert_allclose(served, [p for _, p in expected.scores], atol=1e-5)
    assert answer["model"] == {"name": "digits", "version": 2, "digest": artifact.digest}


def check_foreign_pages(server: Server) -> None:
    """BentoML's own pages load scripts from elsewhere; a closed network's users must never see them."""
    for path in ("/", "/docs.json", "/schema.json", "/static_content/index.html", "/v2/health/ready"):
        status, body = server.get(path)
        assert (status, error_code(body)) == (404, "not_found"), path
