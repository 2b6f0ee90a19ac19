"""A real `thaw up` for drills: its own home, model store, Prefect home and ports; started, driven by REST, stopped.

What a browser sends when somebody presses Run is what `start` sends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
READY_SECONDS = 300.0
ANSWER_SECONDS = 150.0  # more than twice SQLite's own wait for a lock, 60 s
BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Up:
    """A running platform. `api` and `service` are addresses; `seconds` is how long it took to be ready."""

    place: Path
    api: str
    service: str | None
    pid: int
    seconds: float

    @property
    def home(self) -> Path:
        return self.place / "home"

    def call(self, method: str, path: str, body: object = None) -> Any:
        """JSON of the Prefect API. Raises httpx.HTTPError.

        A server whose database is busy answers 503 and has done nothing: asked again, as Prefect's own client does.
        """
        for pause in (*BUSY_PAUSES, 0.0):
            answer = httpx.request(method, f"{self.api}{path}", json=body, timeout=ANSWER_SECONDS)
            if answer.status_code != 503 or not pause:
                break
            time.sleep(pause)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def start(self, parameters: Mapping[str, Any], deployment: str = "retrain/on-demand") -> str:
        """A flow run as the UI's form starts it; its id."""
        found = self.call("GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.call("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{run}")
        return found

    def runs(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The flow runs that meet a filter of the Prefect API, the first due first."""
        body = {**wanted, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        found: list[dict[str, Any]] = self.call("POST", "/flow_runs/filter", body)
        return found

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """The task runs of a flow run that began, in order."""
        found = self.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return sorted((one for one in found if one["start_time"]), key=lambda one: str(one["start_time"]))

    def artifacts(self, run: str) -> list[str]:
        """The keys of a flow run's artifacts that a person sees, sorted."""
        found = self.call("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return sorted({str(one["key"]) for one in found if one["key"] and one["type"] != "progress"})

    def wait(self, run: str, seconds: float, *names: str) -> dict[str, Any]:
        """The flow run once its state is final, or has one of the names. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                found = self.run(run)
            except httpx.HTTPError:  # a drill has just killed the server
                time.sleep(0.5)
                continue
            state = found["state"]
            if state["type"] in FINAL or state["name"] in names:
                return found
            time.sleep(0.3)
        raise TimeoutError(f"flow run {run} is {state.get('name')} after {seconds:.0f} s")

    def answer(self, run: str, **form: str) -> dict[str, Any]:
        """What the UI sends when somebody answers a suspended run's form."""
        found: dict[str, Any] = self.call("POST", f"/flow_runs/{run}/resume", {"run_input": form})
        return found

    def process_of(self, run: str) -> psutil.Process | None:
        """The process a flow run executes in, or None while, or after, there is none."""
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == run and _is_python(process):
                return process
        return None

    def component(self, *words: str) -> psutil.Process:
        """The child of `thaw up` whose command line has these words, e.g. "worker", "start"."""
        for process in psutil.Process(self.pid).children():
            if set(words) <= set(process.cmdline()):
                return process
        raise LookupError(f"no component {' '.join(words)}")

    def environment(self) -> dict[str, str]:
        return environment(self.place)


@contextmanager
def up(place: Path, *options: str, seconds: float = READY_SECONDS, **variables: str) -> Iterator[Up]:
    """Starts `thaw up` under `place`, waits until it is ready, and stops it by SIGTERM. Raises RuntimeError."""
    place.mkdir(parents=True, exist_ok=True)
    port, prefect_port = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "up",
        "--json",
        "--port",
        str(port),
        "--prefect-port",
        str(prefect_port),
    ]
    before = time.monotonic()
    with (place / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *options], env=environment(place) | variables, cwd=place, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line or "error" in json.loads(line):
            raise RuntimeError(f"thaw up did not come up:\n{(place / 'up.log').read_text()[-3000:]}")
        body = json.loads(line)
        taken = time.monotonic() - before
        if taken > seconds:
            raise RuntimeError(f"thaw up was ready after {taken:.0f} s, expected at most {seconds:.0f}")
        yield Up(place, body["prefect"], body["service"], body["pid"], taken)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def environment(place: Path) -> dict[str, str]:
    """Nothing of the person's own is read or written."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("THAW_", "PREFECT_", "BENTOML_")) or key == "THAW_TEST_PICTURES"
    }
    own = {"THAW_HOME": "home", "BENTOML_HOME": "bentoml", "PREFECT_HOME": "prefect"}
    return kept | {key: str(place / folder) for key, folder in own.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# a network of 0.5 million weights: a retrain takes two thirds of the default's time, and the gate still has to decide
TINY = {"image_size": 32, "backbone": "timm/test_resnet", "weights": "none"}
USUAL: dict[str, Any] = {
    "model": {"image_size": 32},
    "finetune": {"epochs": 1, "batch_size": 16},
}  # the default backbone


def small(name: str, root: Path, **changed: Any) -> dict[str, Any]:
    """Parameters of a retrain that takes seconds and passes, on `tests.conftest.write_digits` folders 0, 1 and 7."""
    return {
        "name": name,
        "data": {"root": str(root), "train": 0.5, "validation": 0.25, "test": 0.25},
        "model": TINY,
        "finetune": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "decision": {"watch": [{"label": "digit-7", "recall": 0.8}]},
        "gate": {"min_recall": {"digit-7": 0.5}},
        "runtime": {"device": "cpu"},
    } | changed


def _is_python(process: psutil.Process) -> bool:
    try:
        return "python" in process.name()
    except psutil.Error:
        return False
