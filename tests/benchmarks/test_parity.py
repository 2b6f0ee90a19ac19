"""The parity benchmark on a small real model; its HTTP client against a server of a few lines around the predictor."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.parity import BATCHES, by_http, by_network, by_predictor, checkpoint, parts, requirements, table
from benchmarks.parity import _compared as compared
from serving import artifact as artifacts
from serving.artifact import Artifact
from serving.predictor import load_predictor
from tasks.data.dataset import subset
from tests.conftest import Pipeline


@pytest.fixture(scope="module")
def artifact(pipeline: Pipeline) -> Artifact:
    return artifacts.read(pipeline.certified.artifact)


@pytest.fixture
def address(artifact: Artifact) -> Iterator[str]:
    predictor = load_predictor(artifact, "cpu")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            answer = predictor.answer([predictor.read(data)])[0]
            scores = [{"label": label, "probability": p} for label, p in answer.scores]
            body = {"label": answer.label, "scores": scores, "model": {"digest": artifact.digest}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_network_file_and_server_agree(pipeline: Pipeline, artifact: Artifact, address: str) -> None:
    test, tuned = subset(pipeline.dataset, "test"), checkpoint(pipeline.run, "finetune")
    assert tuned.key == pipeline.tuned.key
    ways = {
        ("PyTorch", 7): by_network(artifact, pipeline.dataset, tuned, test, 7),
        ("predictor", 32): by_predictor(artifact, test, 32),
        ("HTTP", 1): by_http(address, artifact, test),
    }
    pairs = [
        compared(a, b, ways[a], ways[b]) for a, b in [(("PyTorch", 7), ("HTTP", 1)), (("predictor", 32), ("HTTP", 1))]
    ]
    figures = {"pictures": len(test), "precision": "fp32", "pairs": pairs}
    assert all(holds for holds, _ in requirements(figures))
    assert f"| PyTorch, HTTP | 7, 1 | {len(test)} of {len(test)} |" in table(figures)


def test_another_artifact_behind_the_address_is_noticed(pipeline: Pipeline, artifact: Artifact, address: str) -> None:
    other = Artifact(artifact.path, "0" * 64, artifact.contents)
    with pytest.raises(SystemExit, match="the run's own artifact"):
        by_http(address, other, subset(pipeline.dataset, "test"))


def test_one_label_or_probability_off_is_noticed() -> None:
    ours = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    theirs = np.array([0, 0]), np.array([[0.9, 0.1], [0.201, 0.799]], np.float32)
    pair = compared(("PyTorch", 1), ("HTTP", 1), ours, theirs)
    found = requirements({"pictures": 2, "pairs": [pair]})
    assert [holds for holds, _ in found] == [False, False]


@pytest.mark.parametrize("size", BATCHES)
def test_parts_are_the_whole(pipeline: Pipeline, size: int) -> None:
    test = subset(pipeline.dataset, "test")
    pieces = list(parts(test, size))
    assert max(len(piece) for piece in pieces) == min(size, len(test))
    assert sum((piece.digests for piece in pieces), ()) == test.digests
