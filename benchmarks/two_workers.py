"""Do two workers share what one had for itself?

    uv run python -m benchmarks.two_workers [--write]

What docs say of growing past one machine, on one: a PostgreSQL server of the drill's own holds Prefect's database and
Thaw's ledger; two `prefect worker start`, each of which takes one run at a time, poll the pool that `python -m
flows.configure` made; both use one folder as home and model store. Required: a retrain started through the REST API
runs on one worker while the other one waits, and is promoted; of two retrains of one name at once, on both workers,
none begins while this program alone holds the ledger's lock, and then their steps never overlap, and both end; those
of two names do overlap; `promote/on-demand` works on either worker, the other one being frozen. Where PostgreSQL is not
installed it says so and ends with 0. About 4 minutes on 2 idle cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa

from benchmarks.coverage import conclude, rows
from benchmarks.crashes import DONE, stamp
from benchmarks.platform import Up, environment, free_port, small
from benchmarks.postgres import binaries, postgres
from benchmarks.served import model_store
from flows.processes import Component
from serving.ledger import opened
from serving.store import Store
from tests.conftest import write_digits

WORKERS = ("one", "two")
RUN_SECONDS = 600.0  # for each run: a limit against hanging only
UP_SECONDS = 300.0
HELD_SECONDS = 5.0  # how long both runs are watched not to begin
ANCESTORS = 5  # of a run's process, up to its worker


@dataclass
class Site:
    """Two workers of one Prefect server. `up` speaks its API; `workers` are their processes by name."""

    up: Up
    ledger: str
    workers: dict[str, Component]
    pictures: Path

    def retrain(self, name: str, seed: int) -> str:
        return self.up.start(small(name, self.pictures, runtime={"device": "cpu", "seed": seed}))

    def worker_of(self, run: str) -> str:
        """Which worker's process a run executes in, as soon as there is one. Raises TimeoutError."""
        names = {worker.pid: name for name, worker in self.workers.items()}
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            process = self.up.process_of(run)
            try:
                parents = process.parents()[:ANCESTORS] if process else []
            except psutil.NoSuchProcess:
                parents = []
            found = [names[parent.pid] for parent in parents if parent.pid in names]
            if found:
                return found[0]
            time.sleep(0.2)
        raise TimeoutError(f"no worker took flow run {run}")

    def busy(self) -> dict[str, int]:
        """How many processes each worker has below it."""
        return {name: len(psutil.Process(worker.pid).children()) for name, worker in self.workers.items()}

    def steps(self, run: str) -> tuple[float, float] | None:
        """From its first step's begin to its last one's end, or None while none began."""
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        found = [step for step in self.up.call("POST", "/task_runs/filter", wanted) if step["start_time"]]
        if not found:
            return None
        return min(stamp(step["start_time"]) for step in found), max(stamp(step["end_time"]) for step in found)


# --- the site -----------------------------------------------------------------------------------------


@contextmanager
def site(place: Path, database: str) -> Iterator[Site]:
    """Prefect server and two workers on the PostgreSQL server of that URL. Raises RuntimeError."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    prefix = database.rpartition("/")[0]
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("prefect", "thaw"):
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    variables = environment(place) | {
        "PREFECT_API_URL": api,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"{prefix.replace('postgresql:', 'postgresql+asyncpg:')}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "THAW_LEDGER": f"{prefix}/thaw",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
    }

    def component(name: str, *words: str) -> Component:
        command = (sys.executable, "-m", "prefect", *words)
        return Component(name, command, variables, place / f"{name}.log", lambda: False)

    server = component("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    workers = {
        name: component(name, "worker", "start", "--pool", "thaw", "--type", "process", "--name", name, "--limit", "1")
        for name in WORKERS
    }
    up = Up(place, api, None, os.getpid(), 0.0)
    with ExitStack() as started:
        for part in (server, *workers.values()):
            part.start()
            started.callback(part.stop)
            if part is server:
                wait_for(up, "GET", "/health", None, 1)
                subprocess.run([sys.executable, "-m", "flows.configure", "--runs", "2"], env=variables, check=True)
        wait_for(up, "POST", "/work_pools/thaw/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}}, 2)
        yield Site(up, variables["THAW_LEDGER"], workers, write_digits(place / "pictures", (0, 1, 7), 80, side=32))


def wait_for(up: Up, method: str, path: str, body: object, many: int) -> None:
    """Until the API answers with true, or a list of that many. Raises RuntimeError."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        try:
            found = up.call(method, path, body)
        except httpx.HTTPError:
            found = []
        if (len(found) if isinstance(found, list) else int(found)) >= many:
            return
        time.sleep(0.5)
    raise RuntimeError(f"no answer from {path}; the logs: {up.place}")


# --- what is tried ------------------------------------------------------------------------------------


def measure(place: Path, database: str) -> dict[str, Any]:
    began = time.monotonic()
    with site(place, database) as two:
        figures: dict[str, Any] = {"ready": time.monotonic() - began}
        for part in (one_run, one_name, two_names, promotions):
            before = time.monotonic()
            figures[part.__name__] = part(two) | {"seconds": time.monotonic() - before}
            print(part.__name__, figures[part.__name__], flush=True)
    return figures | {"seconds": time.monotonic() - began}


def one_run(two: Site) -> dict[str, Any]:
    """One retrain: on one worker, the other has nothing to do; promoted, and whole in the shared store."""
    run = two.retrain("alpha", 1)
    worker = two.worker_of(run)
    two.up.wait(run, RUN_SECONDS, "Running")
    busy = two.busy()
    state = two.up.wait(run, RUN_SECONDS)["state"]["name"]
    with opened(two.ledger, create=False) as ledger:
        champion = Store(two.up.home, ledger).champion("alpha")
        version = ledger.champion("alpha").version
    return {"worker": worker, "busy": busy, "state": state, "champion": version, "digest": champion.digest}


def one_name(two: Site) -> dict[str, Any]:
    """Two retrains of one name at once: neither begins while somebody else has the turn in the ledger's database."""
    return both(two, "alpha", "alpha")


def two_names(two: Site) -> dict[str, Any]:
    return both(two, "alpha", "beta")


def both(two: Site, *names: str) -> dict[str, Any]:
    """Two retrains, each on a worker of its own, held by the ledger's locks until both are Running."""
    with ExitStack() as locks:
        ledger = locks.enter_context(opened(two.ledger, create=False))
        ours = [locks.enter_context(ledger.turn(f"thaw retrain {name}")) for name in sorted(set(names))]
        seed = 10 * (1 + len(set(names)))
        runs = [two.retrain(name, seed + number) for number, name in enumerate(names)]
        workers = [two.worker_of(run) for run in runs]
        for run in runs:
            two.up.wait(run, RUN_SECONDS, "Running")
        time.sleep(HELD_SECONDS)
        early = sum(two.steps(run) is not None for run in runs)
    states = [two.up.wait(run, RUN_SECONDS)["state"]["name"] for run in runs]
    spans = sorted(two.steps(run) or (0.0, 0.0) for run in runs)
    shared = min(spans[0][1], spans[1][1]) - spans[1][0]
    lasted = [end - begin for begin, end in spans]
    return {
        "locked": all(ours), "workers": workers, "early": early, "states": states, "overlap": shared, "lasted": lasted
    }  # fmt: skip


def promotions(two: Site) -> dict[str, Any]:
    """Two promotions by hand, the second while the worker that did the first one is frozen."""
    done = []
    frozen: Component | None = None
    try:
        for version in (1, 2):
            wanted = {"version": f"alpha:{version}", "who": "drill", "override": "drill", "wait": 0}
            run = two.up.start(wanted, "promote/on-demand")
            worker = two.worker_of(run)
            state = two.up.wait(run, RUN_SECONDS)["state"]["name"]
            with opened(two.ledger, create=False) as ledger:
                done.append({"worker": worker, "state": state, "champion": ledger.champion("alpha").version})
            if frozen is None:
                frozen = two.workers[worker]
                os.kill(frozen.pid or 0, signal.SIGSTOP)
    finally:
        if frozen is not None and frozen.pid:
            os.kill(frozen.pid, signal.SIGCONT)
    return {"done": done}


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    first, same, other, moved = f["one_run"], f["one_name"], f["two_names"], f["promotions"]["done"]
    idle = next(name for name in WORKERS if name != first["worker"])
    return [
        (first["state"] == "Completed" and first["champion"] == 1, f"a retrain is promoted, found {first}"),
        (first["busy"][idle] == 0, f"worker {idle} waits meanwhile, found {first['busy']}"),
        (same["locked"] and other["locked"], "the ledger's locks for this program"),
        (len(set(same["workers"])) == 2, f"two runs of a name on two workers, found {same['workers']}"),
        (same["early"] == 0, f"no step while the turn is another's, found {same['early']} runs with steps"),
        (same["overlap"] <= 0, f"no overlap of one name's runs, found {same['overlap']:.1f} s"),
        (set(same["states"]) <= DONE, f"both end well, found {same['states']}"),
        (len(set(other["workers"])) == 2, f"two names on two workers, found {other['workers']}"),
        (other["overlap"] > 0, f"runs of two names overlap, found {other['overlap']:.1f} s"),
        (set(other["states"]) <= DONE, f"both end well, found {other['states']}"),
        ([move["state"] for move in moved] == ["Completed"] * 2, f"promotions by hand work, found {moved}"),
        ([move["champion"] for move in moved] == [1, 2], f"each moves the champion, found {moved}"),
        ({move["worker"] for move in moved} == set(WORKERS), f"on either worker, found {moved}"),
    ]


def table(f: Mapping[str, Any]) -> str:
    first, same, other, moved = f["one_run"], f["one_name"], f["two_names"], f["promotions"]["done"]

    def told(found: Mapping[str, Any]) -> str:
        lasted = " and ".join(f"{seconds:.1f} s" for seconds in found["lasted"])
        return f"{' and '.join(found['states'])} on {' and '.join(found['workers'])}; steps of {lasted}"

    body = [
        ("one retrain", f"{first['state']} on {first['worker']}, champion alpha:{first['champion']}"),
        ("processes below each worker meanwhile", ", ".join(f"{name}: {n}" for name, n in first["busy"].items())),
        ("two of one name at once", told(same)),
        ("of these began while another held the lock in PostgreSQL", f"{same['early']}"),
        ("between the first one's last step and the other's first", f"{-same['overlap']:.1f} s"),
        ("two of two names at once", told(other)),
        ("both in their steps for", f"{other['overlap']:.1f} s"),
        *(
            (f"promotion {number} by hand", f"{move['state']} on {move['worker']}, champion alpha:{move['champion']}")
            for number, move in enumerate(moved, start=1)
        ),
        ("all", f"{f['seconds']:.0f} s, {f['ready']:.0f} s of them until both workers polled"),
    ]
    return "\n".join(["# Two workers, one PostgreSQL\n", rows(("", ""), body), "", f["note"], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    if binaries() is None:
        print("skipped: no PostgreSQL here")
        return
    with ExitStack() as stack:
        database = stack.enter_context(postgres())  # first: it runs as another user, who may not enter our directory
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thaw-two-workers-")))
        stack.enter_context(model_store(place / "bentoml"))
        figures = measure(place, database) | {"note": arguments.note}
    conclude("two_workers", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
