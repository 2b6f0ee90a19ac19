"""The speed benchmark: what it sends and times on a tiny model, and each requirement failing when it should."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import serving_speed
from benchmarks.serving_speed import BODIES, FORM, JSON, jpeg, plain_loop, requirements, table, write_bodies
from serving.predictor import load_predictor
from tests.benchmarks.spoiled import spoiled, unmet
from tests.serving import tiny

SPEEDS = {"plain loop": 100.0, "thaw serve": 90.0, "LitServe": 70.0, "stock BentoML": 40.0}
FIGURES: dict[str, Any] = {
    "picture_bytes": 50_000, "side": 224, "cores": 2, "per_second": SPEEDS,
    "rounds": {name: [speed - 1, speed, speed + 1] for name, speed in SPEEDS.items()}, "lone_ms": 13.0,
    "in_process_ms": 10.0,
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    text = table(FIGURES)
    assert "| thaw serve | 90.0 | 0.90 | 89.0, 90.0, 91.0 |" in text
    assert "One request at a time: 13.00 ms, in process 10.00 ms." in text


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("per_second/thaw serve", 79.0, "at least 80% of the plain loop, found 79%"),
        ("per_second/LitServe", 91.0, "not slower than LitServe"),
        ("lone_ms", 14.1, "a lone request within 14.0 ms, found 14.1"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: float, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, figure, value)))
    assert words in text


def test_the_picture_is_the_one_that_is_stated() -> None:
    data = jpeg()
    assert 40_000 < len(data) < 60_000
    assert Image.open(io.BytesIO(data)).size == (640, 427)


def test_each_server_gets_the_same_picture(tmp_path: Path) -> None:
    data = jpeg()
    write_bodies(tmp_path, data)
    assert (tmp_path / BODIES[""]).read_bytes() == data
    assert base64.b64decode(json.loads((tmp_path / BODIES[JSON]).read_text())["image"]) == data
    form = (tmp_path / BODIES[FORM]).read_bytes()
    head, _, rest = form.partition(b"\r\n\r\n")
    assert (rest.removesuffix(b"\r\n--xyz--\r\n"), b'name="image"' in head) == (data, True)


def test_the_plain_loop_predicts_for_as_long_as_it_says(tmp_path: Path) -> None:
    predictor = load_predictor(tiny.make_artifact(tmp_path / "artifact"), "cpu", threads=1)
    begun = time.perf_counter()
    assert plain_loop(predictor, jpeg(), 0.5) > 10
    assert 0.5 <= time.perf_counter() - begun < 5


def test_in_process_times_are_milliseconds_of_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_speed, "LONE_REQUESTS", 20)
    predictor = load_predictor(tiny.make_artifact(tmp_path / "artifact"), "cpu", threads=1)
    begun = time.perf_counter()
    taken = serving_speed.in_process(predictor, jpeg())
    assert 0 < taken <= 2 * 1000 * (time.perf_counter() - begun) / 20
    assert serving_speed.timed(lambda: time.sleep(0.01)) == pytest.approx(10, rel=0.5)


class Server(ThreadingHTTPServer):
    """Answers every request alike."""

    status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"label": "red"}' if self.server.status == 200 else b'{"error": {"code": "overloaded"}}'
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_lone_request_is_timed_and_an_error_is_no_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_speed, "LONE_REQUESTS", 20)
    assert 0 < serving_speed.lone_request(server.url, b"x" * 1000) < 1000
    server.status = 503
    with pytest.raises(SystemExit, match="not met: an answer, found 503"):
        serving_speed.lone_request(server.url, b"x" * 1000)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs the load generator wrk, a package of the system")
def test_only_answers_are_counted_as_speed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_speed, "WARM_UP_SECONDS", 1)
    write_bodies(tmp_path, b"x" * 1000)
    assert serving_speed.wrk(server.url + "/", tmp_path, FORM, 1) > 10
    server.status = 503
    with pytest.raises(SystemExit, match="not met: only answers from"):
        serving_speed.wrk(server.url + "/", tmp_path, "", 1)
