"""What the orchestration drill's scenarios share: the running platform, its two places, and what was found so far."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from benchmarks.platform import USUAL, Up, small
from serving.ledger import opened
from serving.ledger_rows import Champion, Event

T = TypeVar("T")
RUN_SECONDS = 1800.0  # a run takes 20 s on an idle machine, minutes on a busy one
FOLLOW_SECONDS = 60.0  # until a server or an automation has followed
SLOTS = 2
# still going on when two others have come
LONG = USUAL | {"finetune": {"epochs": 60, "batch_size": 16, "patience": 60}}
# which version is better is not the question
MARGINS = {"champion_recall_margin": 0.5, "champion_accuracy_margin": 0.5}


@dataclass(frozen=True, slots=True)
class Check:
    """Whether something holds, and the figure that says so."""

    holds: bool
    figure: str


@dataclass
class Drill:
    """The platform, the pictures, and what was found so far."""

    up: Up
    pictures: Path
    token: str
    checks: dict[str, Check] = field(default_factory=dict)
    collision_begins: threading.Event = field(default_factory=threading.Event)
    _slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(SLOTS))

    def check(self, name: str, holds: bool, figure: object) -> None:
        self.checks[name] = Check(bool(holds), str(figure).replace(str(self.up.home), "THAW_HOME"))
        print(f"{time.strftime('%X')} {'holds' if holds else 'FAILS'}: {name}: {figure}", file=sys.stderr, flush=True)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of the pool's places, in turn."""
        with self._slots:
            yield
        time.sleep(0.5)  # whoever waits comes before whoever comes back

    def small(self, name: str, number: int = 0, **changed: Any) -> dict[str, Any]:
        """Parameters of a run that passes; those of another number are others, and make another version."""
        gate = {"min_recall": 0.5 + number / 100, **MARGINS}
        return small(name, self.pictures, **{"gate": gate, "decision": {}, "finetune": {"epochs": 0}} | changed)

    def whole(self, parameters: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """A run of the form from its start to its end, or to one of the states."""
        with self.slot():
            return self.up.wait(self.up.start(parameters), RUN_SECONDS, *names)

    def answered(self, run: str, **form: str) -> dict[str, Any]:
        """A suspended run whose form is answered, until it ends or asks again."""
        with self.slot():
            said = self.up.answer(run, **form)
            assert said["status"] == "ACCEPT", said
            return self.up.wait(run, RUN_SECONDS, "Suspended")

    def move(self, deployment: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """A run of `promote` or `rollback`, which have a queue of their own."""
        return self.up.wait(self.up.start(parameters, deployment), RUN_SECONDS)

    def result(self, run: str) -> dict[str, Any]:
        """What a run left in its directory under the home; empty where it left nothing."""
        found = [json.loads((place / "result.json").read_text()) for place in self.places(run)]
        return found[0] if found else {}

    def places(self, run: str) -> list[Path]:
        """The directories under the home that a run made: their names end as its id does."""
        return list(self.up.home.glob(f"runs/*-{run[-12:]}"))

    def champion(self, name: str) -> Champion:
        with opened(self.up.home, create=False) as ledger:
            return ledger.champion(name)

    def history(self, name: str) -> tuple[Event, ...]:
        with opened(self.up.home, create=False) as ledger:
            return ledger.history(name)

    def ask(self, path: str, body: bytes | None = None, **options: Any) -> httpx.Response:
        """The prediction service's answer, with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        method = "GET" if body is None and not options else "POST"
        return httpx.request(
            method, f"{self.up.service}{path}", content=body, headers=headers, timeout=30, trust_env=False, **options
        )

    def seconds_until_served(self, version: int) -> float:
        """How long until the service answers with a version; infinite if it does not."""
        began = time.monotonic()
        while time.monotonic() - began < FOLLOW_SECONDS:
            answer = self.ask("/v1/model")
            if answer.status_code == 200 and answer.json()["version"] == version:
                return time.monotonic() - began
            time.sleep(0.2)
        return float("inf")


def until(found: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first thing found. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.5)
    raise TimeoutError(f"{what} did not come within {seconds:.0f} s")


def told(run: Mapping[str, Any]) -> str:
    """A run's state in words."""
    message = run["state"]["message"]
    return f"{run['state']['name']} after {run['total_run_time']:.0f} s" + (f": {message}" if message else "")
