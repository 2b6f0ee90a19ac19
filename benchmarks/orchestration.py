"""Does a real `thaw up` do what a person who works in the Prefect UI expects?

    uv run python -m benchmarks.orchestration [--only form ...] [--ready-seconds 90] [--write]

One platform with two places for retrains, driven by the REST calls that the UI makes: the form, wrong values, the
schedule and what collides with it, questions to a person, rollback and hold; then every file it wrote is searched for
what must not leave, and it is stopped while a run goes on. Each check is a line of the table; exit status 1 if one
does not hold or was not reached. 16 minutes on two cores that others used, too.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks import canaries, scenarios
from benchmarks.approvals import Approvals
from benchmarks.canaries import Marks
from benchmarks.coverage import conclude, rows
from benchmarks.drill import LONG, RUN_SECONDS, SLOTS, Drill, until
from benchmarks.platform import up
from benchmarks.scenarios import FORM

STOP_SECONDS = 60.0
NOT_REACHED = {"holds": False, "figure": "not reached"}
CHECKS: dict[str, tuple[str, ...]] = {
    "ready": ("thaw up is ready",),
    "form": (
        "a run started from the form is gated and promoted",
        "it is named by what, when and which",
        "its steps are task runs in order",
        "its artifacts are there",
        "the service answers with the new champion, without a restart",
        "a retrain of unchanged data is skipped",
        "the rollback's button goes back and holds",
        "a retrain on hold publishes and does not promote",
        "the promotion's button ends the hold",
        "the retrain after it is promoted",
    ),
    "wrong": (
        *(f"{what} is refused with a sentence" for what in scenarios.WRONG),
        "what was refused left no run",
        "fractions that do not sum to 1 fail the run with the sentence",
        "and nothing is written",
    ),
    "schedule": (
        "thaw schedule finds the running platform",
        "the schedule fires and its run completes",
        "a run that an event starts meanwhile is skipped",
        "a run that a person starts meanwhile waits for its turn",
        "their steps never overlap",
    ),
    "approvals": (
        "a suspended run gives its place back",
        "the verdict and the report are there before the answer",
        "a wrong choice is no answer",
        "a name left out is no answer",
        "an approved version is the champion; the ledger has who and why",
        "a refused version is not promoted, and its run did not fail",
        "an answer about an older champion promotes nothing",
        "it is certified again against the new one, and only that answer counts",
        "a question that nobody answers ends by itself, promoting nothing",
    ),
    "canaries": (
        "a run with marked pictures completes",
        "a run that a marked picture fails keeps its name at home",
        "the service answers for marked pictures, with the token only",
        "control: what was planted is found",
        "the token is nowhere else",
        "a picture's bytes are nowhere else",
        "a picture's name is nowhere else",
    ),
    "stop": ("SIGTERM ends everything, a run that goes on too",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="some of the scenarios")
    parser.add_argument("--ready-seconds", type=float, default=90.0, help="limit; holds where the machine was idle")
    parser.add_argument("--keep", type=Path, help="leave everything in this new folder")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-orchestration-") as folder:
        figures = measure(arguments.keep or Path(folder), arguments.only, arguments.ready_seconds)
    found = requirements(figures, arguments.only)
    conclude("orchestration", figures, table(figures), found, arguments.write)


def measure(place: Path, only: list[str], ready_seconds: float) -> dict[str, Any]:
    from tests.conftest import write_digits  # isolates this process's Prefect and BentoML on import

    marks = Marks(*(f"q{secrets.token_hex(12)}q" for _ in range(3)))
    began, load = time.monotonic(), os.getloadavg()[0]
    pictures = write_digits(place / "pictures", (0, 1, 7), 80)
    options = ("--runs", str(SLOTS), "--name", FORM)
    with up(place, *options, THAW_API_TOKEN=marks.token) as platform:
        drill = Drill(platform, pictures, marks.token)
        said, good = judge_ready(platform.seconds, ready_seconds, load)
        drill.check("thaw up is ready", good, said)
        if "schedule" not in only:
            drill.collision_begins.set()
        errors = side_by_side(planned(drill, marks, only))
        if "canaries" in only:
            own = [place / "marked", place / "spoiled"]
            errors |= side_by_side({"search": lambda: canaries.look(drill, marks, own)})
        if "stop" in only:
            errors |= side_by_side({"stop": lambda: stop(drill)})
    checks = {name: asdict(drill.checks[name]) for names in CHECKS.values() for name in names if name in drill.checks}
    machine = {"cores": os.cpu_count(), "load_before": round(load, 2)}
    return {"seconds": round(time.monotonic() - began), "machine": machine, "checks": checks, "errors": errors}


def judge_ready(seconds: float, limit: float, load: float) -> tuple[str, bool]:
    """In words, and whether it counts as good: a busy machine proves nothing about the time."""
    idle = load < (os.cpu_count() or 1) / 2
    return f"{seconds:.0f} s, limit {limit:.0f} s{'' if idle else f', not judged at a load of {load:.1f}'}", (
        seconds <= limit or not idle
    )


def planned(drill: Drill, marks: Marks, only: list[str]) -> dict[str, Callable[[], object]]:
    asked = Approvals(drill)
    every: dict[str, dict[str, Callable[[], object]]] = {
        "form": {"form": lambda: scenarios.form(drill)},
        "wrong": {"wrong": lambda: scenarios.wrong(drill)},
        "schedule": {"schedule": lambda: scenarios.schedule(drill)},
        "approvals": {
            "overtaken": asked.overtaken,
            "approved": asked.approved,
            "refused": asked.refused,
            "unanswered": asked.unanswered,
        },
        "canaries": {"canaries": lambda: canaries.use(drill, marks)},
    }
    return {part: action for name in only for part, action in every.get(name, {}).items()}


def side_by_side(parts: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """Runs them at the same time; what ended by an error, in words."""
    errors: dict[str, str] = {}

    def guarded(name: str) -> None:
        try:
            parts[name]()
        except Exception as error:  # one scenario that breaks off leaves the others their time
            errors[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()

    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        list(pool.map(guarded, parts))
    return errors


def stop(drill: Drill) -> None:
    """SIGTERM while a run trains: within a minute no process, no port, no address is left."""
    platform = drill.up
    run = platform.start(drill.small("last", **LONG, runtime={"device": "cpu", "seed": 5}))
    until(lambda: platform.tasks(run) or None, RUN_SECONDS, "the last run's first step")
    parent = psutil.Process(platform.pid)
    family = [parent, *parent.children(recursive=True)]
    began = time.monotonic()
    parent.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=2 * STOP_SECONDS)
    seconds = time.monotonic() - began
    left = [" ".join(process.cmdline())[:80] for process in alive if process.is_running()]
    taken = [address for address in (platform.api, platform.service or "") if answers(address)]
    told = (platform.home / "up.json").exists()
    good = seconds <= STOP_SECONDS and not left and not taken and not told
    figure = f"{seconds:.0f} s, {len(family)} processes, {len(left)} left, {len(taken)} ports taken, up.json: {told}"
    drill.check("SIGTERM ends everything, a run that goes on too", good, "; ".join([figure, *left]))


def answers(address: str) -> bool:
    """Whether something listens at http://HOST:PORT..."""
    host, port = address.split("/")[2].split(":")
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, int(port))) == 0


def requirements(figures: Mapping[str, Any], only: list[str] | None = None) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    for name in (name for scenario in only or CHECKS for name in CHECKS[scenario]):
        check = figures["checks"].get(name, NOT_REACHED)
        found.append((check["holds"] is True, f"{name}: {check['figure']}"))
    return [*found, *((False, f"{name} broke off: {error}") for name, error in figures["errors"].items())]


def table(figures: Mapping[str, Any]) -> str:
    body = [
        (scenario, name, check["figure"].replace("|", "/").replace("\n", " "), "yes" if check["holds"] else "NO")
        for scenario, names in CHECKS.items()
        for name in names
        if (check := figures["checks"].get(name, NOT_REACHED))
    ]
    machine = figures["machine"]
    title = f"{figures['seconds']} s on {machine['cores']} cores, load before {machine['load_before']}"
    header = ("", "check", "found", "holds")
    return "\n".join(["# A platform as its users drive it\n", rows(header, body), "", title, ""])


if __name__ == "__main__":
    main()
