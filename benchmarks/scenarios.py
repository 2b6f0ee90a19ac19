"""What the orchestration drill does on a running platform: the form, wrong values, the schedule, the hold.

Every scenario has model names of its own, so they go on at the same time; `Drill.slot` keeps the pool's two places.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psutil
import yaml

from benchmarks.drill import FOLLOW_SECONDS, LONG, RUN_SECONDS, Drill, told, until
from benchmarks.platform import Up

STEPS = ("prepare", "embed", "audit", "train_head", "finetune", "validate", "export", "certify", "publish", "promote")
EARLY_SECONDS = 0.5  # Prefect's server rounds the wait until a run is due to whole seconds
ARTIFACTS = ("audit", "confusion", "curves", "data", "report", "verdict")
FORM, NIGHT = "form", "night"


# --- the form ---------------------------------------------------------------------------------------


def form(drill: Drill) -> None:
    """A first champion, the same once more, and then the hold that a rollback begins."""
    before, processes = drill.ask("/v1/model").status_code, service_processes(drill.up)
    run = drill.whole(drill.small(FORM))
    seconds = drill.seconds_until_served(1)
    result = drill.result(run["id"])
    passed = run["state"]["name"] == "Completed" and result.get("verdict") == "PASSED" and result["promoted"]
    drill.check("a run started from the form is gated and promoted", passed, told(run))
    named = re.fullmatch(rf"retrain {FORM} \d{{4}}-\d\d-\d\d [0-9a-f]{{6}}", run["name"]) is not None
    drill.check("it is named by what, when and which", named, run["name"])
    steps = [task["name"].rsplit("-", 1)[0] for task in drill.up.tasks(run["id"])]
    drill.check("its steps are task runs in order", tuple(steps) == STEPS, " ".join(steps))
    keys = drill.up.artifacts(run["id"])
    drill.check("its artifacts are there", keys == sorted(f"{FORM}-{kind}" for kind in ARTIFACTS), " ".join(keys))
    answer = drill.ask("/v1/predict", (drill.pictures / "digit-7" / "000.png").read_bytes())
    body = answer.json()
    right = answer.status_code == 200 and body["model"]["version"] == 1 and body["label"] == "digit-7"
    same = before == 503 and seconds < FOLLOW_SECONDS and service_processes(drill.up) == processes
    said = f"{before} before; {seconds:.1f} s after the run's end; a picture: {answer.status_code} {body.get('label')}"
    drill.check("the service answers with the new champion, without a restart", right and same, said)
    again = drill.whole(drill.small(FORM))
    skips = again["state"]["name"] == "Skipped" and drill.champion(FORM).version == 1
    drill.check("a retrain of unchanged data is skipped", skips, told(again))
    hold(drill)


def service_processes(up: Up) -> set[int]:
    service = up.component("serve")
    return {process.pid for process in (service, *service.children(recursive=True)) if is_server(process)}


def is_server(process: psutil.Process) -> bool:
    """Whether it is one that answers, and none that comes and goes."""
    try:
        return any("bentoml" in word for word in process.cmdline())
    except psutil.Error:
        return False


def hold(drill: Drill) -> None:
    """Version 2, back to 1, version 3 that waits, and 4 that does not."""

    def another(number: int) -> dict[str, Any]:
        return drill.whole(drill.small(FORM, number))

    second = another(2)
    assert drill.champion(FORM).version == 2, told(second)
    back = drill.move("rollback/on-demand", {"name": FORM, "who": "drill", "why": "drift seen"})
    champion, served = drill.champion(FORM), drill.seconds_until_served(1)
    holds = back["state"]["name"] == "Completed" and (champion.version, champion.hold) == (1, True)
    said = f"{told(back)}; served {served:.1f} s later"
    drill.check("the rollback's button goes back and holds", holds and served < FOLLOW_SECONDS, said)
    third = another(3)
    result = drill.result(third["id"])
    waits = result.get("version") == 3 and not result["promoted"] and drill.champion(FORM).version == 1
    drill.check("a retrain on hold publishes and does not promote", waits, told(third))
    parameters = {"version": f"{FORM}:3", "who": "drill", "release_hold": True}
    moved = drill.move("promote/on-demand", parameters)
    champion, served = drill.champion(FORM), drill.seconds_until_served(3)
    ends = (champion.version, champion.hold) == (3, False) and served < FOLLOW_SECONDS
    drill.check("the promotion's button ends the hold", ends, f"{told(moved)}; served {served:.1f} s later")
    fourth = another(4)
    drill.check("the retrain after it is promoted", drill.champion(FORM).version == 4, told(fourth))


# --- wrong values -----------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"finetune": {"epocs": 3}}, "epocs"),
    "a value out of range": ({"finetune": {"epochs": -1}}, "-1"),
    "a wrong choice": ({"release": {"promote": "perhaps"}}, "perhaps"),
}


def wrong(drill: Drill) -> None:
    """Refused before a run exists where the form's schema can say so, and in words where only the flow can."""
    drill.collision_begins.wait(RUN_SECONDS)
    for what, (changed, word) in WRONG.items():
        try:
            drill.up.start(drill.small("wrong") | changed)
            status, said = 200, ""
        except httpx.HTTPStatusError as error:
            status, said = error.response.status_code, str(error.response.json().get("detail"))
        drill.check(f"{what} is refused with a sentence", status in (409, 422) and word in said, f"{status} {said}")
    found = [run["name"] for run in drill.up.runs({}) if run["parameters"].get("name") == "wrong"]
    drill.check("what was refused left no run", not found, found or "none")
    data = {"root": str(drill.pictures), "train": 0.5, "validation": 0.25, "test": 0.35}
    run = drill.whole(drill.small("crossed", data=data))
    sentence = "expected train + validation + test = 1, found 1.1"
    fails = run["state"]["type"] == "FAILED" and sentence in run["state"]["message"]
    drill.check("fractions that do not sum to 1 fail the run with the sentence", fails, told(run))
    left = [*drill.places(run["id"]), *drill.up.home.rglob("*crossed*")]
    drill.check("and nothing is written", not left, [path.name for path in left] or "nothing")


# --- the schedule -----------------------------------------------------------------------------------


def schedule(drill: Drill) -> None:
    """A run by the clock, and what meets it: one that an event starts, and one that a person starts."""
    up = drill.up
    with drill.slot():
        due = scheduled(drill)
        with drill.slot():
            drill.collision_begins.set()
            collide(drill, due, up.call("GET", f"/deployments/name/retrain/{NIGHT}")["id"])


def scheduled(drill: Drill) -> datetime:
    """`thaw schedule` as a person types it, which finds the running platform by itself; when it is due."""
    config = drill.up.place / f"{NIGHT}.yaml"
    config.write_text(yaml.safe_dump(drill.small(NIGHT, **LONG)))
    began = time.monotonic()
    for minutes in (1, 3, 8, 20):
        due = next_minute(datetime.now(UTC) + timedelta(minutes=minutes))
        cron = f"{due.minute} {due.hour} {due.day} {due.month} *"
        command = [sys.executable, "-m", "flows.cli", "schedule", NIGHT, "--cron", cron, "--config", str(config)]
        done = subprocess.run(
            [*command, "--json"], env=drill.up.environment(), cwd=drill.up.place, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
        if due - datetime.now(UTC) > timedelta(seconds=10):  # else the machine is so busy that it was made too late
            break
    body = json.loads(done.stdout)
    took = f"{body['deployment']} after {time.monotonic() - began:.0f} s"
    drill.check("thaw schedule finds the running platform", body["deployment"] == f"retrain/{NIGHT}", took)
    return due


def next_minute(moment: datetime) -> datetime:
    """The next full minute."""
    return (moment + timedelta(minutes=1)).replace(second=0, microsecond=0)


def collide(drill: Drill, due: datetime, deployment: str) -> None:
    up = drill.up
    mine = {"deployments": {"id": {"any_": [deployment]}}}

    def by_clock() -> dict[str, Any] | None:
        found = [run for run in up.runs(mine) if run["auto_scheduled"] and up.tasks(run["id"])]
        return found[0] if found else None

    def by_event() -> dict[str, Any] | None:
        found = [run for run in up.runs(mine) if (run["created_by"] or {}).get("type") == "AUTOMATION"]
        return found[0] if found else None

    first = until(by_clock, RUN_SECONDS, "the scheduled run")["id"]
    up.call("POST", "/events", [dataset_updated(NIGHT)])
    event = until(by_event, FOLLOW_SECONDS * 2, "the event's run")["id"]
    person = up.start(drill.small(NIGHT, 2), f"retrain/{NIGHT}")
    repeated = up.wait(event, RUN_SECONDS)
    ended, patient = up.wait(first, RUN_SECONDS), up.wait(person, RUN_SECONDS)
    late = (moment(ended["start_time"]) - due).total_seconds()
    in_time = -EARLY_SECONDS <= late < RUN_SECONDS
    drill.check(
        "the schedule fires and its run completes",
        ended["state"]["name"] == "Completed" and in_time,
        f"{late:.1f} s after {due:%H:%M}; {told(ended)}",
    )
    skips = repeated["state"]["name"] == "Skipped" and not up.tasks(event)
    drill.check("a run that an event starts meanwhile is skipped", skips, told(repeated))
    waited = (moment(ended["end_time"]) - moment(patient["start_time"])).total_seconds()
    completes = patient["state"]["name"] in ("Completed", "Rejected", "Inconclusive") and waited > 0
    drill.check(
        "a run that a person starts meanwhile waits for its turn", completes, f"waited {waited:.0f} s; {told(patient)}"
    )
    gap = seconds_between(up.tasks(first), up.tasks(person))
    drill.check("their steps never overlap", gap > 0, f"{gap:.1f} s between them")


def dataset_updated(name: str) -> dict[str, Any]:
    """The event as somebody's own program sends it."""
    resource = {"prefect.resource.id": f"thaw.dataset.{name}", "prefect.resource.name": name}
    now = datetime.now(UTC).isoformat()
    return {"id": str(uuid4()), "event": "thaw.dataset.updated", "occurred": now, "resource": resource}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def seconds_between(earlier: Sequence[Mapping[str, Any]], later: Sequence[Mapping[str, Any]]) -> float:
    """From the last end of the one's steps to the first start of the other's; below 0 where they overlap."""
    if not earlier or not later:
        return float("nan")
    end, begin = max(moment(task["end_time"]) for task in earlier), min(moment(task["start_time"]) for task in later)
    return (begin - end).total_seconds()
