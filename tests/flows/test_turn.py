"""Two retrains of one name never overlap; who waits, who skips, and what a kill leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed

from flows import turn
from flows.turn import Busy, is_automatic, is_superseded, this_run, turn_of

HOLDER = """
import sys
from pathlib import Path
from flows.turn import turn_of
while sys.stdin.readline():
    with turn_of("cells", Path(sys.argv[1]), None, False, print):
        print("mine", flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "_LOOK_SECONDS", 0.05)


@pytest.fixture
def holder(home: Path) -> Iterator[Callable[[str], Any]]:
    """Another process: each call lets it take the turn, or give it back, and says which; `kill` ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        env=os.environ | {"PYTHONPATH": str(Path(turn.__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def tell(word: str) -> str:
        assert process.stdin is not None and process.stdout is not None
        if word == "kill":
            process.kill()
            return ""
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    with process:
        yield tell
        process.kill()


def told(_text: str) -> None:
    raise AssertionError("nobody is to be told")


def test_one_process_at_a_time(home: Path, holder: Callable[[str], Any]) -> None:
    assert holder("take") == "mine"
    busy = pytest.raises(Busy, match="another retrain of cells is running: this one would only repeat it")
    with busy, turn_of("cells", home, None, False, told):
        raise AssertionError("it is another's")
    with turn_of("other", home, None, False, told):
        pass  # another name's

    said: list[str] = []
    have, done = threading.Event(), threading.Event()

    def wait() -> None:
        with turn_of("cells", home, None, True, said.append):
            have.set()
            done.wait(60)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not have.wait(0.5)
    assert said == ["another retrain of cells is running: waiting for it to end"], "told once"
    assert holder("give") == "free"
    assert have.wait(20)
    with pytest.raises(Busy), turn_of("cells", home, None, False, told):
        pass
    done.set()
    waiting.join()

    assert holder("take") == "mine"
    holder("kill")
    start = time.monotonic()
    with turn_of("cells", home, None, True, said.append):
        assert time.monotonic() - start < 5, "a kill leaks nothing"


@pytest.mark.parametrize("error", [ValueError("x"), Timeout("another.lock"), KeyboardInterrupt(), Busy("x")], ids=repr)
def test_what_the_body_raises_leaves_as_it_is(error: BaseException, home: Path) -> None:
    entered = 0
    with pytest.raises(type(error)) as caught, turn_of("cells", home, None, True, told):
        entered += 1
        raise error
    assert (caught.value, entered) == (error, 1)
    with turn_of("cells", home, None, False, told):
        pass  # and the turn is free again


def made(**values: Any) -> FlowRun:
    return FlowRun(flow_id=uuid.uuid4(), **values)


def test_who_started_it() -> None:
    assert this_run() is None
    assert is_automatic(None) is False, "a command"
    assert is_automatic(made()) is False
    assert is_automatic(made(created_by={"id": uuid.uuid4(), "type": "USER"})) is False
    assert is_automatic(made(created_by={"id": uuid.uuid4(), "type": "AUTOMATION"})) is True
    assert is_automatic(made(auto_scheduled=True)) is True


# --- late runs of a schedule, on the session's server ---------------------------------------------------


@flow(name="clockwork")
def nothing() -> None: ...


def scheduled(client: SyncPrefectClient, name: str, hours: int) -> list[FlowRun]:
    """A new deployment's hourly runs of the last hours and the next two, oldest first."""
    now = datetime.now(UTC)
    minute = (now.minute + 30) % 60  # none falls due while this runs
    clock = DeploymentScheduleCreate(schedule=CronSchedule(cron=f"{minute} * * * *", timezone="UTC"), active=True)
    deployment = client.create_deployment(client.create_flow(nothing), name=name, schedules=[clock])
    begin, end = now - timedelta(hours=hours), now + timedelta(hours=2)
    body = {"start_time": begin.isoformat(), "end_time": end.isoformat(), "min_runs": hours + 2, "max_runs": 50}
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json=body)
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    )
    assert len(runs) == hours + 2
    assert all(run.auto_scheduled for run in runs)
    return sorted(runs, key=lambda run: str(run.expected_start_time))


def test_a_late_run_gives_way_to_the_one_that_is_due() -> None:
    with get_client(sync_client=True) as client:
        runs = scheduled(client, f"late-{uuid.uuid4().hex[:6]}", 3)
        scheduled(client, f"other-{uuid.uuid4().hex[:6]}", 1)
        assert [is_superseded(run) for run in runs] == [True, True, False, False, False], "another one's do not count"
        assert is_automatic(runs[0])
        assert is_superseded(runs[0].model_copy(update={"run_count": 2})) is False, "it goes on, or is tried again"
        assert is_superseded(runs[0].model_copy(update={"auto_scheduled": False})) is False, "a person's"
        client.set_flow_run_state(runs[2].id, Completed(), force=True)
        assert [is_superseded(run) for run in runs[:2]] == [True, False], "one that ended is not due"
    assert is_superseded(None) is False
