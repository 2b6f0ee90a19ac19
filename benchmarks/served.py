"""A real `thaw serve` in a process group of its own, with models in a home of its own: what every drill talks to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

ROOT = Path(__file__).parents[1]
READY_SECONDS = 120
STOP_SECONDS = 60


@dataclass
class Server:
    """`process` is the supervisor; its group holds the worker that answers."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path | None

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, trust_env=False)

    def wait(self, path: str, status: int = 200, seconds: float = READY_SECONDS) -> httpx.Response:
        """The first answer of that status. Raises SystemExit with the log if it does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                response = self.get(path)
            except httpx.TransportError:
                pass  # not listening yet
            else:
                if response.status_code == status:
                    return response
            time.sleep(0.1)
        raise SystemExit(f"not met: {status} from {path} within {seconds} s; its log: {self.said()[-2000:]}")

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log else ""

    def worker(self) -> psutil.Process:
        """The process that answers: the largest of the group."""
        supervisor = psutil.Process(self.process.pid)
        return max(supervisor.children(recursive=True), key=lambda found: found.memory_info().rss)

    def megabytes(self) -> float:
        """Resident memory of the worker."""
        return float(self.worker().memory_info().rss / 2**20)

    def kill_worker(self) -> None:
        self.worker().kill()


@contextmanager
def served(environment: Mapping[str, str], *, ready: bool = True, log: Path | None = None) -> Iterator[Server]:
    """A server on a free port of this machine, with no `THAW_*` but these; it and its workers end with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("THAW_")}
    out: Any = log.open("wb") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "serve", "--port", port],
        cwd=log.parent if log else None,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdout=out,
        stderr=out,
        start_new_session=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait("/readyz" if ready else "/livez")
        yield server
    finally:
        end(process)
        if log:
            out.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, SIGKILL to what is left of it and its workers, which have sessions of their own."""
    workers: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children(recursive=True)
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=STOP_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        process.kill()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    process.wait(timeout=STOP_SECONDS)


@contextmanager
def model_store(place: Path) -> Iterator[Path]:
    """BentoML's home is `place`, which is made, for this process; its container read BENTOML_HOME once and keeps it."""
    (place / "models").mkdir(parents=True, exist_ok=True)
    BentoMLContainer.bentoml_home.set(str(place))
    BentoMLContainer.model_store.set(ModelStore(place / "models"))
    try:
        yield place
    finally:
        BentoMLContainer.bentoml_home.reset()
        BentoMLContainer.model_store.reset()
