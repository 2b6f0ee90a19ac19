"""How fast does the server answer, beside a bare loop and other servers with the same file, on one machine in one run?

    uv run python -m benchmarks.serving_speed HOME [--rounds 3] [--seconds 10] [--write]

HOME: with a champion, e.g. a finished demo's; BENTOML_HOME as that run had it. Needs `wrk`; LitServe comes from the
package index. In each round, one after the other: a plain loop of decode, preprocess and `session.run` (a thread a
core, one intra-op thread each), then `thaw serve`, LitServe (batches of 8, 10 ms) and a stock BentoML service, each
under 8 connections that post one 50 kB JPEG of 640 x 427; and requests to the idle server one at a time. Required: at
least 80 % of the plain loop, not slower than LitServe, a lone request within 1.2 times the in-process time plus 2 ms.
Figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.coverage import conclude, rows
from benchmarks.served import ROOT, end, served
from serving.ledger import opened
from serving.predictor import Predictor, load_predictor
from serving.store import Store, resolve_name

CONNECTIONS = 8
WARM_UP_SECONDS = 3
LONE_REQUESTS = 200
OF_THE_LOOP = 0.8
LONE_FACTOR, LONE_EXTRA_MS = 1.2, 2.0
SCRIPT = """
local file = assert(io.open("{body}", "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
{headers}
"""
FORM = 'wrk.headers["Content-Type"] = "multipart/form-data; boundary=xyz"'
FORM_OF_MANY = FORM.replace("xyz", "many")
JSON = 'wrk.headers["Content-Type"] = "application/json"'
BODIES = {"": "picture.jpg", FORM: "picture.form", FORM_OF_MANY: "many.form", JSON: "picture.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Thaw home with a champion")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-speed-") as folder:
        figures = measure(arguments.home.resolve(), Path(folder), arguments.rounds, arguments.seconds)
    conclude("serving_speed", figures, table(figures), requirements(figures), arguments.write)


def measure(home: Path, place: Path, rounds: int, seconds: int) -> dict[str, Any]:
    with opened(home, create=False) as ledger:
        artifact = Store(home, ledger).champion(resolve_name(ledger, None))
    write_bodies(place, jpeg())
    picture = place / "picture.jpg"
    side = artifact.contents.preprocessing.image_size
    environment = {**os.environ, "THAW_BENCH_MODEL": str(artifact.model), "THAW_BENCH_SIDE": str(side)}
    predictor = load_predictor(artifact, "cpu", threads=1)
    found: dict[str, list[float]] = {}
    lone: list[float] = []
    for _ in range(rounds):
        found.setdefault("plain loop", []).append(plain_loop(predictor, picture.read_bytes(), seconds))
        with served({"THAW_HOME": str(home), "THAW_DEVICE": "cpu"}) as server:
            found.setdefault("thaw serve", []).append(wrk(f"{server.url}/v1/predict", place, "", seconds))
            lone.append(lone_request(server.url, picture.read_bytes()))
        for name, command, path, headers in others():
            with started(command, environment) as url:
                found.setdefault(name, []).append(wrk(url + path, place, headers, seconds))
    return {
        "picture_bytes": picture.stat().st_size,
        "side": side,
        "cores": os.cpu_count(),
        "per_second": {name: statistics.median(values) for name, values in found.items()},
        "rounds": found,
        "lone_ms": statistics.median(lone),
        "in_process_ms": in_process(predictor, picture.read_bytes()),
    }


def jpeg() -> bytes:
    """scikit-learn's photo of 640 x 427 at the quality that takes about 50 kB."""
    out = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(out, "JPEG", quality=70)
    return out.getvalue()


def write_bodies(place: Path, data: bytes) -> None:
    """The picture as each server wants it: alone, in a form, in JSON."""
    (place / BODIES[""]).write_bytes(data)
    for body, boundary, name in ((FORM, b"xyz", b"image"), (FORM_OF_MANY, b"many", b"images")):
        field = b'Content-Disposition: form-data; name="%s"; filename="a.jpg"\r\nContent-Type: image/jpeg' % name
        form = b"--%s\r\n%s\r\n\r\n%s\r\n--%s--\r\n" % (boundary, field, data, boundary)
        (place / BODIES[body]).write_bytes(form)
    (place / BODIES[JSON]).write_text(json.dumps({"image": base64.b64encode(data).decode()}))


def plain_loop(predictor: Predictor, data: bytes, seconds: float) -> float:
    """Pictures a second of threads that do nothing else, one a core."""
    cores = os.cpu_count() or 1
    deadline = time.perf_counter() + seconds

    def work() -> int:
        count = 0
        while time.perf_counter() < deadline:
            predictor.answer([predictor.read(data)])
            count += 1
        return count

    with ThreadPoolExecutor(cores) as pool:
        counts = [future.result() for future in [pool.submit(work) for _ in range(cores)]]
    return sum(counts) / seconds


def in_process(predictor: Predictor, data: bytes) -> float:
    return timed(lambda: predictor.answer([predictor.read(data)]))


def lone_request(url: str, data: bytes) -> float:
    """Median milliseconds of requests one after the other on one connection."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        connection.request("POST", "/v1/predict", data, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        if not response.read() or response.status != 200:
            raise SystemExit(f"not met: an answer, found {response.status}")

    return timed(ask)


def timed(work: Callable[[], object]) -> float:
    """Median milliseconds."""
    taken = []
    for _ in range(LONE_REQUESTS):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def wrk(url: str, place: Path, headers: str, seconds: int) -> float:
    """Requests a second that were answered with 2xx."""
    script = place / "post.lua"
    script.write_text(SCRIPT.format(body=place / BODIES[headers], headers=headers))
    for duration in (WARM_UP_SECONDS, seconds):
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "-s", str(script), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"not met: only answers from {url}, found: {said}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]


def others() -> Iterator[tuple[str, list[str], str, str]]:
    """Name, command with PORT, path, and what their requests are made of."""
    here = Path(__file__).parent / "others"
    packages = ("litserve", "onnxruntime", "pillow", "numpy", "pydantic")
    with_packages = [word for package in packages for word in ("--with", package)]
    litserve = ["uv", "run", "--no-project", *with_packages, "python", str(here / "litserve_server.py"), "PORT"]
    yield "LitServe", litserve, "/predict", JSON
    stock = [sys.executable, "-m", "bentoml", "serve", "benchmarks.others.stock_bentoml:Stock", "--port", "PORT"]
    yield "stock BentoML", stock, "/predict", FORM
    batching = [word.replace("stock_bentoml:Stock", "batching_bentoml:Batching") for word in stock]
    yield "BentoML's batching", batching, "/predict", FORM_OF_MANY


@contextmanager
def started(command: list[str], environment: dict[str, str], cwd: Path = ROOT) -> Iterator[str]:
    """The address of another server, once it listens; it ends with the block. PORT in the command becomes its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [port if word == "PORT" else word for word in command]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        words, cwd=cwd, env=environment | {"PYTHONPATH": str(cwd)}, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        wait_until_it_listens(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def wait_until_it_listens(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise SystemExit(f"not met: a server that listens: {words_of(process)}")


def words_of(process: subprocess.Popen[bytes]) -> str:
    return " ".join(map(str, process.args)) if isinstance(process.args, list) else str(process.args)


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    speed, allowed = f["per_second"], LONE_FACTOR * f["in_process_ms"] + LONE_EXTRA_MS
    share = speed["thaw serve"] / speed["plain loop"]
    return [
        (share >= OF_THE_LOOP, f"at least {OF_THE_LOOP:.0%} of the plain loop, found {share:.0%}"),
        (speed["thaw serve"] >= speed["LitServe"], f"not slower than LitServe, found {speed}"),
        (f["lone_ms"] <= allowed, f"a lone request within {allowed:.1f} ms, found {f['lone_ms']:.1f}"),
    ]


def table(f: dict[str, Any]) -> str:
    loop = f["per_second"]["plain loop"]
    body = [
        (name, f"{speed:.1f}", f"{speed / loop:.2f}", ", ".join(f"{value:.1f}" for value in f["rounds"][name]))
        for name, speed in f["per_second"].items()
    ]
    title = (
        f"# {f['picture_bytes']} bytes of JPEG, {f['side']} px model, {CONNECTIONS} connections, {f['cores']} cores\n"
    )
    lone = f"One request at a time: {f['lone_ms']:.2f} ms, in process {f['in_process_ms']:.2f} ms.\n"
    return "\n".join([title, rows(("", "pictures a second", "of the loop", "rounds"), body), "", lone])


if __name__ == "__main__":
    main()
