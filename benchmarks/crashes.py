"""Does the platform get over the loss of any of its processes?

    uv run python -m benchmarks.crashes [--runs 10 --workers 3 --servers 3 --reboots 1] [--seed 0] [--write]

One real `thaw up`, with a client that asks the service for predictions all the time. Again and again a retrain on real
digits is started through Prefect's REST API and, at a random moment of the time in which it is Running, SIGKILL goes to
the process of the run, to the worker, to the Prefect server, or to worker and run together (what a reboot takes).
Required each time: the run reaches a final state within 180 s of the kill; a run of the same name with the same
parameters, started right after the kill, completes, and begins within 60 s of when it may; every published version
verifies, the champion is what the events say, nothing half-written stays; and no prediction fails, ever. A run's own
directory may keep what was half-written there: nobody reads it. About a minute a kill on 2 idle cores.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil

from benchmarks.coverage import conclude, rows
from benchmarks.platform import Up, small, up
from benchmarks.served import model_store
from serving.ledger import opened
from serving.store import Store
from tests.conftest import write_digits

NAME = "drill"
DONE = {"Completed", "Rejected", "Inconclusive", "Skipped"}  # what a run that came to its end is called
KINDS = ("run", "worker", "server", "reboot")
FINAL_SECONDS = 180.0  # of every victim, from the kill
NEXT_SECONDS = 600.0  # for the next run: a limit against hanging only
BEGIN_SECONDS = 60.0  # from when a run may begin to its first step; a slot that leaked would be held for 300 s
LEAVE_SECONDS = 30.0  # for the process of a run that outlived the server it talks to
POLL_SECONDS = "2"  # of the worker; Prefect's own 10 s would only make the drill longer


@dataclass(slots=True)
class Kill:
    """One kill and what came after: seconds from it, those of `begin` from when the next run might begin."""

    kind: str
    step: str = ""
    state: str = ""
    next_state: str = ""
    final: float = float("inf")
    begin: float = float("inf")
    next_final: float = float("inf")
    problems: list[str] = field(default_factory=list)
    left_in_run: int = 0


@dataclass(slots=True)
class Client:
    """What a client heard that asks for a prediction about five times a second."""

    url: str
    picture: bytes
    asked: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)

    def ask(self) -> None:
        began = time.monotonic()
        try:
            answer = httpx.post(f"{self.url}/v1/predict", content=self.picture, timeout=30, trust_env=False)
            said = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            said = type(error).__name__
        self.asked += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.failed += [f"{datetime.now(UTC):%H:%M:%S} {said}"] if said else []

    def ask_until(self, stop: threading.Event) -> None:
        while not stop.wait(0.2):
            self.ask()


class Drill:
    """Kills on one platform. `life`: for how many seconds a run that nobody kills is Running."""

    def __init__(self, platform: Up, pictures: Path, seed: int) -> None:
        self._up, self._pictures, self._seeds, self._random = platform, pictures, 0, random.Random(seed)
        self.life = 0.0

    def warm_up(self) -> None:
        """Two runs that nobody kills: a champion for the client, and how long a run that finds all warm takes."""
        for _ in range(2):
            found = self._up.wait(self._up.start(self._fresh()), NEXT_SECONDS)
            if found["state"]["type"] != "COMPLETED":
                raise RuntimeError(f"expected a run without a kill to complete, found {found['state']}")
            self.life = stamp(found["end_time"]) - stamp(found["start_time"])
        while httpx.get(f"{self._up.service}/readyz", trust_env=False).status_code != 200:
            time.sleep(0.5)

    def one(self, kind: str) -> Kill:
        kill = Kill(kind)
        parameters, share = self._fresh(), self._random.uniform(0.0, 0.9)
        run = self._up.start(parameters)
        self._up.wait(run, NEXT_SECONDS, "Running")
        time.sleep(share * self.life)
        try:
            self._kill(kind, run)
        except LookupError:  # it was faster than the runs before
            found = self._up.wait(run, NEXT_SECONDS)
            self.life = stamp(found["end_time"]) - stamp(found["start_time"])
            return self.one(kind)
        begun, wall = time.monotonic(), time.time()
        following = patiently(lambda: self._up.start(parameters))
        with suppress(TimeoutError):
            kill.state = self._up.wait(run, FINAL_SECONDS)["state"]["name"]
            kill.final = time.monotonic() - begun
        kill.step = step_at(self._steps(run), wall)
        with suppress(TimeoutError):
            found = self._up.wait(following, NEXT_SECONDS)
            kill.next_state, kill.next_final = found["state"]["name"], time.monotonic() - begun
            if kill.next_state not in DONE:
                kill.problems.append(f"the next run: {found['state']['message']}")
            kill.begin = self._begin(run, wall, found)
        shared, own = leftovers(self._up.home, run)
        kill.problems += [*problems(self._up.home), *(f"left: {path}" for path in shared)]
        kill.left_in_run = len(own)
        # one that outlived the server tells it what it could not before, and ends some seconds after it is Completed
        kill.problems += [] if self._ends(run, LEAVE_SECONDS if kind == "server" else 0.0) else ["its process lives"]
        return kill

    def _ends(self, run: str, seconds: float) -> bool:
        """Whether a flow run's process is gone within that time."""
        deadline = time.monotonic() + seconds
        while self._up.process_of(run) is not None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        return True

    def _fresh(self) -> dict[str, Any]:
        """Parameters that no run had before, so that it trains."""
        self._seeds += 1
        return small(NAME, self._pictures, runtime={"device": "cpu", "seed": self._seeds})

    def _kill(self, kind: str, run: str) -> None:
        """SIGKILL. Raises LookupError: the run has no process any more."""
        process = self._up.process_of(run)
        if process is None:
            raise LookupError(run)
        doomed = [self._up.component("server", "start")] if kind == "server" else []
        doomed += [self._up.component("worker", "start")] if kind in ("worker", "reboot") else []
        if kind in ("run", "reboot"):  # after the worker, which would report the run's end
            doomed += [process, *process.children(recursive=True)]
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def _steps(self, run: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        found = patiently(lambda: self._up.call("POST", "/task_runs/filter", wanted))
        return [step for step in found if step["start_time"]]

    def _begin(self, run: str, killed: float, following: Mapping[str, Any]) -> float:
        """Seconds to the next run's first step from when it might begin: it runs, and the victim's process is gone."""
        began = min((stamp(step["start_time"]) for step in self._steps(following["id"])), default=float("inf"))
        victim = self._up.run(run)
        free = killed if victim["state"]["type"] == "CRASHED" else stamp(victim["end_time"])
        return began - max(free, stamp(following["start_time"]))


def patiently(ask: Callable[[], Any]) -> Any:
    """What it returns once the Prefect server answers again."""
    for _ in range(400):
        with suppress(httpx.HTTPError):
            return ask()
        time.sleep(0.5)
    return ask()


def stamp(text: str | None) -> float:
    """Seconds since 1970 of one of Prefect's times; none: never."""
    return datetime.fromisoformat(text).timestamp() if text else float("-inf")


def step_at(steps: Sequence[Mapping[str, Any]], moment: float) -> str:
    """Which step went on at that moment, or after which one it was.

    >>> steps = [{"name": "prepare-0a1", "start_time": "2026-01-01T00:00:01Z", "end_time": "2026-01-01T00:00:02Z"}]
    >>> step_at(steps, stamp("2026-01-01T00:00:03Z")), step_at([], 0.0)
    ('after prepare', 'before prepare')
    """
    begun = [step for step in steps if stamp(step["start_time"]) <= moment]
    if not begun:
        return "before prepare"
    last = max(begun, key=lambda step: stamp(step["start_time"]))
    name = str(last["name"]).rpartition("-")[0]
    over = last["end_time"] is not None and stamp(last["end_time"]) < moment
    return f"after {name}" if over else name


def problems(home: Path) -> list[str]:
    """What is wrong in the ledger and the store, once nothing runs any more."""
    found = []
    with opened(home, create=False) as ledger:
        store, history, champion = Store(home, ledger), ledger.history(NAME), ledger.champion(NAME)
        published = [event.version for event in history if event.kind == "publish"]
        if sorted(entry.version for entry in ledger.versions(NAME)) != published:
            found.append(f"expected an event for each version, found {published}")
        for version in published:
            try:
                store.open(NAME, version or 0)
            except Exception as error:
                found.append(f"version {version}: {type(error).__name__}: {error}")
        moved = [event.version for event in history if event.kind == "promote"]
        if len(moved) != champion.generation or moved[-1:] != [champion.version]:
            found.append(f"expected the champion of the events, {moved}, found {champion}")
        found += [f"left in the store: {place}" for place in store.leftovers(NAME)]
        if len(bentoml.models.list(NAME)) != len(published):
            found.append("expected BentoML to list each version")
    return found


def leftovers(home: Path, run: str) -> tuple[list[Path], list[Path]]:
    """What is half-written where others look, and what is so in the killed run's own directory."""
    shared, own = [], []
    for path in home.rglob(".tmp-*"):
        top, *inner = path.relative_to(home).parts
        if top != "runs" or len(inner) < 2:
            shared.append(path)
        elif inner[0].endswith(run[-12:]):
            own.append(path)
    return shared, own


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    found = []
    for number, kill in enumerate(f["kills"], start=1):
        of = f"kill {number} ({kill['kind']}, {kill['step']})"
        found += [
            (kill["final"] <= FINAL_SECONDS, f"{of}: a final state within 180 s, found {kill['final']:.0f} s"),
            (kill["next_state"] in DONE, f"{of}: the next run completes, found {kill['next_state'] or 'none'}"),
            (kill["begin"] <= BEGIN_SECONDS, f"{of}: the next run begins in 60 s, found {kill['begin']:.1f} s"),
            (not kill["problems"], f"{of}: nothing wrong afterwards, found {kill['problems']}"),
        ]
    failed, asked = f["client"]["failed"], f["client"]["asked"]
    found.append((asked > 0 and not failed, f"no failed prediction, found {len(failed)} of {asked}: {failed[:3]}"))
    return [*found, (not f["unfinished"], f"no run without an end afterwards, found {f['unfinished']}")]


def table(f: Mapping[str, Any]) -> str:
    body = [
        (k["kind"], k["step"], k["state"], f"{k['final']:.1f}", k["next_state"], f"{k['begin']:.1f}",
         f"{k['next_final']:.0f}", "; ".join(k["problems"]) or "none")
        for k in f["kills"]
    ]  # fmt: skip
    header = ("killed", "in step", "run ended", "s after", "next run", "began, s", "ended, s after", "problems")
    client, own = f["client"], sum(kill["left_in_run"] for kill in f["kills"])
    told = (
        f"Predictions asked for meanwhile: {client['asked']}, failed: {len(client['failed'])}, slowest "
        f"{client['slowest']:.2f} s. `thaw up` was ready after {f['ready']:.0f} s, a run without a kill took "
        f"{f['life']:.0f} s, the whole drill {f['seconds'] / 60:.1f} min. Left in killed runs' own directories, where "
        f"nobody reads it: {own}. {f['note']}"
    )
    return "\n".join(["# Processes killed on one platform\n", rows(header, body), "", told.strip(), ""])


def measure(place: Path, kinds: Sequence[str], seed: int) -> dict[str, Any]:
    began = time.monotonic()
    pictures = write_digits(place / "pictures", (0, 1, 7), 80, side=32)
    with up(place, "--name", NAME, "--runs", "2", PREFECT_WORKER_QUERY_SECONDS=POLL_SECONDS) as platform:
        drill = Drill(platform, pictures, seed)
        drill.warm_up()
        client = Client(str(platform.service), next(pictures.rglob("*.png")).read_bytes())
        kills, stop = [], threading.Event()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(client.ask_until, stop)
            try:
                for kind in kinds:
                    kills.append(asdict(drill.one(kind)))
                    print(kills[-1], f"{time.monotonic() - began:.0f} s", flush=True)
            finally:
                stop.set()
        alive = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "PAUSED", "CANCELLING"]}}}}
        unfinished = [run["name"] for run in platform.call("POST", "/flow_runs/filter", alive)]
    told: dict[str, Any] = {"ready": platform.seconds, "life": drill.life, "seconds": time.monotonic() - began}
    told["client"] = {"asked": client.asked, "failed": client.failed, "slowest": client.slowest}
    return told | {"kills": kills, "unfinished": unfinished}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in zip(KINDS, (10, 3, 3, 1), strict=True):
        parser.add_argument(f"--{kind}s", type=int, default=count, help=f"kills of kind {kind}")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the moments")
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    kinds = [kind for kind in KINDS for _ in range(getattr(arguments, f"{kind}s"))]
    random.Random(arguments.seed).shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="thaw-crashes-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder), kinds, arguments.seed) | {"note": arguments.note}
    conclude("crashes", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
