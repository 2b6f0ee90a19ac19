"""What do difficult and hostile pictures do to the server?

    uv run python -m benchmarks.hostile PICTURES [--write]

PICTURES: a folder of test pictures by others, with pngsuite/ and exif-orientation/ in it. Every file is posted to a
real server five ways: as it is, with a content type that lies, in a form under a hostile file name, with one byte
missing at the end, and in a batch; as many at a time as the server has slots. Required: no 5xx, none over 5 s, the
worker's memory never above idle + 400 MB a slot; every valid picture of PngSuite and all orientation files accepted;
the eight rotations of a scene get one label. Control: a stock BentoML image service under the same requests answers
with 5xx. About a minute.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.coverage import conclude, rows
from benchmarks.served import Server, model_store, served
from benchmarks.serving_speed import others, started
from serving import artifact as artifacts
from serving.ledger import opened
from serving.store import Store
from tests.serving import tiny

NAME = "colours"
SECONDS = 5.0
MEGABYTES_A_SLOT = 400.0
BATCH = 16
CONTROL_FILES = 150
CONTENT_TYPES = (
    "text/html",
    "image/tiff",
    "application/json",
    "video/mp4",
    "\x80\xff",
    "multipart/mixed",
    "image/svg+xml",
)
FILE_NAMES = (
    "../../etc/passwd",
    "a\x00b.png",
    "'; rm -rf ~;.jpg",
    "a" * 4000,
    "\u202egnp.exe",
    "{{7*7}}",
    'a"b.png',
    "",
)
Ask = Callable[[httpx.Client, Path, int], httpx.Response]


@dataclass(frozen=True, slots=True)
class Reply:
    way: str
    path: Path
    status: int
    seconds: float
    label: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-hostile-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder), arguments.pictures.resolve())
    conclude("hostile", figures, table(figures), requirements(figures), arguments.write)


def measure(place: Path, pictures: Path) -> dict[str, Any]:
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    home, slots = place / "home", os.cpu_count() or 1
    with opened(home) as ledger:
        artifact = tiny.make_artifact(place / "artifact", NAME, looking=True)
        Store(home, ledger).publish(artifact, "drill", "hostile")
        ledger.promote(NAME, 1, who="drill", why="hostile")
    environment = {"THAW_HOME": str(home), "BENTOML_HOME": str(place / "bentoml"), "THAW_LOG_LEVEL": "WARNING"}
    replies: list[Reply] = []
    with served(environment | {"THAW_DEVICE": "cpu"}, log=place / "log") as server:
        idle = server.megabytes()
        with watched(server.worker()) as peak:
            for way, ask in WAYS.items():
                replies += asked(server, way, ask, files, slots)
            batches = batched(server, files)
        said = server.said()
    model = str(artifact.path / artifacts.MODEL)
    return {
        "files": len(files),
        "statuses": {way: dict(Counter(r.status for r in replies if r.way == way)) for way in WAYS},
        "server_errors": sum(reply.status >= 500 for reply in replies) + batches["server_errors"],
        "slowest_seconds": max(reply.seconds for reply in replies),
        "slowest": max(replies, key=lambda reply: reply.seconds).path.name,
        "batch_items": batches["items"],
        "batch_items_that_differ": batches_differ(batches["labels"], replies),
        "idle_mb": idle,
        "peak_mb": peak[0],
        "slots": slots,
        "refused_valid": refused(replies, lambda path: path.parent.name == "pngsuite" and not corrupt(path)),
        "accepted_corrupt": accepted(replies, lambda path: path.parent.name == "pngsuite" and corrupt(path)),
        "refused_orientations": refused(replies, lambda path: path.parent.name == "exif-orientation"),
        "labels_of_scenes": scenes(replies),
        "names_in_the_log": sum(path.name in said for path in files if len(path.stem) > 5),
        "control_server_errors": stock_errors(files, {**os.environ, "THAW_BENCH_MODEL": model}),
    }


# --- ways to send a file ------------------------------------------------------------------------------


def as_it_is(client: httpx.Client, path: Path, number: int) -> httpx.Response:
    return client.post("/v1/predict", content=path.read_bytes())


def with_a_lie(client: httpx.Client, path: Path, number: int) -> httpx.Response:
    kind = CONTENT_TYPES[number % len(CONTENT_TYPES)].encode("latin-1")
    return client.post("/v1/predict", content=path.read_bytes(), headers=[(b"Content-Type", kind)])


def in_a_form(client: httpx.Client, path: Path, number: int) -> httpx.Response:
    name = FILE_NAMES[number % len(FILE_NAMES)] or "x"
    return client.post("/v1/predict", files={"image": (name, path.read_bytes(), "image/png")})


def cut_short(client: httpx.Client, path: Path, number: int) -> httpx.Response:
    return client.post("/v1/predict", content=path.read_bytes()[:-1] or b"x")


WAYS: dict[str, Ask] = {ask.__name__: ask for ask in (as_it_is, with_a_lie, in_a_form, cut_short)}


def asked(server: Server, way: str, ask: Ask, files: list[Path], slots: int) -> Iterator[Reply]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client, ThreadPoolExecutor(slots) as pool:

        def reply(numbered: tuple[int, Path]) -> Reply:
            begun = time.monotonic()
            response = ask(client, numbered[1], numbered[0])
            label = response.json()["label"] if response.status_code == 200 else ""
            return Reply(way, numbered[1], response.status_code, time.monotonic() - begun, label)

        yield from pool.map(reply, enumerate(files))


def batched(server: Server, files: list[Path]) -> dict[str, Any]:
    """All files in batches: the labels given, "" for items that were refused."""
    found: dict[str, Any] = {"items": 0, "server_errors": 0, "labels": {}}
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            images = [("images", (path.name, path.read_bytes())) for path in part]
            response = client.post("/v1/predict/batch", files=images)
            found["server_errors"] += response.status_code >= 500
            results = response.json().get("results", [])
            found["items"] += len(results)
            found["labels"] |= {path: item.get("label", "") for path, item in zip(part, results, strict=False)}
    return found


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[float]]:
    """The most resident memory in MB, looked at a hundred times a second."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


# --- what is judged -----------------------------------------------------------------------------------


def corrupt(path: Path) -> bool:
    """PngSuite's own mark; the files here carry their kind before it, as in png__xs1n0g01.png."""
    return path.name.rpartition("__")[2].startswith("x")


def refused(replies: list[Reply], which: Callable[[Path], bool]) -> list[str]:
    whole = [reply for reply in replies if reply.way != "cut_short" and picture(reply.path) and which(reply.path)]
    return sorted({reply.path.name for reply in whole if reply.status != 200})


def accepted(replies: list[Reply], which: Callable[[Path], bool]) -> list[str]:
    return sorted({reply.path.name for reply in replies if which(reply.path) and reply.status == 200})


def picture(path: Path) -> bool:
    return path.suffix.lower() in (".png", ".bmp", ".jpg")


def scenes(replies: list[Reply]) -> dict[str, list[str]]:
    """The labels that the rotations of each scene were given."""
    found: dict[str, set[str]] = {}
    for reply in replies:
        if reply.path.parent.name == "exif-orientation" and reply.way != "cut_short":
            found.setdefault(reply.path.name.partition("_")[0], set()).add(reply.label)
    return {scene: sorted(labels) for scene, labels in found.items()}


def batches_differ(labels: dict[Path, str], replies: list[Reply]) -> int:
    alone = {reply.path: reply.label for reply in replies if reply.way == "as_it_is"}
    return sum(label != alone[path] for path, label in labels.items())


def stock_errors(files: list[Path], environment: dict[str, str]) -> int:
    """How many of some of the files a stock BentoML service answers with 5xx: the checks above could fail."""
    _, command, path, _ = next(other for other in others() if other[0] == "stock BentoML")
    with started(command, environment | {"THAW_BENCH_SIDE": str(tiny.SIDE)}) as url, httpx.Client(timeout=60) as client:
        some = files[:: max(1, len(files) // CONTROL_FILES)]
        return sum(client.post(url + path, files={"image": file.read_bytes()}).status_code >= 500 for file in some)


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    allowed = f["idle_mb"] + MEGABYTES_A_SLOT * f["slots"]
    labels = f["labels_of_scenes"]
    return [
        (f["server_errors"] == 0, f"no 5xx, found {f['server_errors']}"),
        (f["slowest_seconds"] <= SECONDS, f"none over 5 s, found {f['slowest_seconds']:.1f} s for {f['slowest']}"),
        (f["peak_mb"] <= allowed, f"at most {allowed:.0f} MB, found {f['peak_mb']:.0f}"),
        (not f["refused_valid"], f"PngSuite's valid pictures accepted, found refused: {f['refused_valid'][:5]}"),
        (not f["refused_orientations"], f"orientations accepted, found refused: {f['refused_orientations']}"),
        (all(len(found) == 1 for found in labels.values()), f"one label a scene, found {labels}"),
        (len(labels) == 2 and len(set(map(tuple, labels.values()))) == 2, f"two scenes told apart, found {labels}"),
        (f["batch_items"] == f["files"], f"{f['files']} results of batches, found {f['batch_items']}"),
        (f["batch_items_that_differ"] == 0, f"batches answer alike, found {f['batch_items_that_differ']} others"),
        (f["names_in_the_log"] == 0, f"no file name in the log, found {f['names_in_the_log']}"),
        (f["control_server_errors"] > 0, "the control answers with 5xx"),
    ]


def table(f: dict[str, Any]) -> str:
    body = [
        (way, ", ".join(f"{count} x {status}" for status, count in sorted(found.items())))
        for way, found in f["statuses"].items()
    ]
    body += [
        ("in batches", f"{f['batch_items']} results, {f['batch_items_that_differ']} unlike the single answer"),
        ("answers of 500 and above", f"{f['server_errors']}"),
        ("slowest", f"{f['slowest_seconds']:.2f} s ({f['slowest']})"),
        ("memory idle, peak", f"{f['idle_mb']:.0f} MB, {f['peak_mb']:.0f} MB ({f['slots']} slots)"),
        ("valid PngSuite pictures refused", f"{len(f['refused_valid'])}"),
        ("corrupt PngSuite pictures accepted", f"{len(f['accepted_corrupt'])}"),
        ("labels of the rotated scenes", "; ".join(f"{k}: {', '.join(v)}" for k, v in f["labels_of_scenes"].items())),
        ("control: 5xx of a stock BentoML service", f"{f['control_server_errors']} of about {CONTROL_FILES}"),
    ]
    return "\n".join([f"# {f['files']} difficult pictures by others\n", rows(("", ""), body), ""])


if __name__ == "__main__":
    main()
