"""How long does a Prefect server on SQLite keep people waiting, and how many events does it lose, by its start?

    uv run python -m benchmarks.stalls [--seconds 75] [--rounds 2] [--write]

Eight clients create flow runs, move and read them and send logs, as workers and the UI do, on a server with Thaw's
automations; it is started in turn as it comes, with half and with all of what `thaw up` does (flows/prefect_server.py).
A server that finds its database busy answers 503, or ends the connection, and is asked again after a pause, as
Prefect's own client does. Required: as `thaw up` starts it no answer takes 30 s, each is 2xx or one of these, and no
event ends as a dead letter. About 12 minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient

from benchmarks.coverage import conclude, rows
from benchmarks.platform import environment, free_port
from flows.automations import apply_automations
from flows.prefect_server import BROKER

OURS = "as `thaw up` starts it"
STARTS: dict[str, tuple[str, dict[str, str]]] = {  # a module and what stands in its environment
    "as it comes": ("prefect", {}),
    "only its garbage apart": ("flows.prefect_server", {BROKER: "prefect.server.utilities.messaging.memory"}),
    OURS: ("flows.prefect_server", {}),
}
CLIENTS = 8
READY_SECONDS, STOP_SECONDS = 120.0, 60.0
WAIT_SECONDS = 200.0  # for an answer: more than Prefect's busy_timeout, three times
LONGEST = 30.0  # seconds; SQLite's own writes take milliseconds, and a machine may be busy
LOG_LINES = 20
BUSY = {0, 503}  # no answer, or one that says so
PAUSE_SECONDS, TRIES = 0.5, 20
SETTLE_SECONDS = 30.0  # after the load: longer than an event is tried again (flows/broker.py)


@dataclass
class Client:
    """One who starts runs; `answers` are (status, seconds)."""

    api: str
    answers: list[tuple[int, float]] = field(default_factory=list)

    def work(self, until: float) -> None:
        with httpx.Client(timeout=WAIT_SECONDS, trust_env=False) as http:
            flow = self._ask(http, "POST", "/flows/", {"name": uuid.uuid4().hex})
            while flow and time.monotonic() < until:
                self._a_run(http, flow)

    def _a_run(self, http: httpx.Client, flow: str) -> None:
        wanted = {"flow_id": flow, "tags": ["thaw"], "state": {"type": "PENDING"}}  # the tag the automations follow
        run = self._ask(http, "POST", "/flow_runs/", wanted)
        for state in ("RUNNING", "COMPLETED") if run else ():
            self._ask(http, "POST", f"/flow_runs/{run}/set_state", {"state": {"type": state}})
            self._ask(http, "PATCH", f"/flow_runs/{run}", {"flow_version": uuid.uuid4().hex})
            now = datetime.now(UTC).isoformat()
            line = {"name": "drill", "level": 20, "message": "m" * 200, "timestamp": now, "flow_run_id": run}
            self._ask(http, "POST", "/logs/", [line] * LOG_LINES)
            self._ask(http, "GET", f"/flow_runs/{run}")
            self._ask(http, "POST", "/flow_runs/filter", {"limit": 200})

    def _ask(self, http: httpx.Client, method: str, path: str, body: object = None) -> str | None:
        """The id of what the server made, or None."""
        for _ in range(TRIES):
            status, made = self._ask_once(http, method, path, body)
            if status not in BUSY:
                break
            time.sleep(PAUSE_SECONDS)
        return str(made["id"]) if isinstance(made, dict) and "id" in made else None

    def _ask_once(self, http: httpx.Client, method: str, path: str, body: object) -> tuple[int, object]:
        began, status, made = time.monotonic(), 0, None
        with suppress(httpx.HTTPError):
            answer = http.request(method, self.api + path, json=body)
            status, made = answer.status_code, answer.json() if answer.is_success and answer.content else None
        self.answers.append((status, time.monotonic() - began))
        return status, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=75.0, help="of load, for each start of a server")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.rounds)
    conclude("stalls", figures, table(figures), requirements(figures), arguments.write)


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"seconds": seconds, "clients": CLIENTS, "cores": os.cpu_count()}
    found |= {start: [loaded(start, seconds) for _ in range(rounds)] for start in STARTS}
    return found


def loaded(start: str, seconds: float, settle: float = SETTLE_SECONDS) -> dict[str, Any]:
    """What the clients of one server were answered, and how many events it put away for good."""
    with tempfile.TemporaryDirectory(prefix="thaw-stalls-") as folder, server(start, Path(folder)) as api:
        with SyncPrefectClient(api) as client:
            apply_automations(client, None)
        clients, until = [Client(api) for _ in range(CLIENTS)], time.monotonic() + seconds
        threads = [threading.Thread(target=client.work, args=(until,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(settle)
        lost = sum(1 for _ in Path(folder).glob("prefect/dlq/*"))
    answers = [answer for client in clients for answer in client.answers]
    times = sorted(taken for _, taken in answers)
    return {
        "answers": len(answers),
        "busy": sum(status in BUSY for status, _ in answers),
        "refused": sum(status not in BUSY and not 200 <= status < 300 for status, _ in answers),
        "median_seconds": statistics.median(times),
        "longest_seconds": times[-1],
        "lost_events": lost,
    }


@contextmanager
def server(start: str, place: Path) -> Iterator[str]:
    """The API's address of a Prefect server of its own, ready. Raises RuntimeError."""
    port, (module, variables) = free_port(), STARTS[start]
    command = [sys.executable, "-m", module, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    settings = environment(place) | variables | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT)
    api, until = f"http://127.0.0.1:{port}/api", time.monotonic() + READY_SECONDS
    try:
        while not _answers(f"{api}/health"):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{start}: it did not come up:\n{(place / 'server.log').read_text()[-2000:]}")
            time.sleep(0.3)
        yield api
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    ours = f[OURS]
    longest, refused = max(run["longest_seconds"] for run in ours), sum(run["refused"] for run in ours)
    lost = sum(run["lost_events"] for run in ours)
    return [
        (longest < LONGEST, f"every answer within {LONGEST:.0f} s, found {longest:.1f} s"),
        (refused == 0, f"no answer but 2xx and 503, found {refused} others"),
        (lost == 0, f"no event lost, found {lost}"),
    ]


def table(f: dict[str, Any]) -> str:
    load = f"{f['clients']} clients, {f['seconds']:.0f} s a server, {f['cores']} cores"
    head = f"# Stalls and lost events of a Prefect server on SQLite\n\n{load}. Each line is one server of its own.\n\n"
    body = [
        (
            start,
            str(run["answers"]),
            str(run["busy"]),
            str(run["refused"]),
            f"{run['median_seconds'] * 1000:.0f}",
            f"{run['longest_seconds']:.1f}",
            str(run["lost_events"]),
        )
        for start in STARTS
        for run in f[start]
    ]
    columns = ("server", "answers", "busy", "refused", "median ms", "longest s", "lost events")
    return head + rows(columns, body)


if __name__ == "__main__":
    main()
