"""The automations and events against a real Prefect server: what they do to runs, and what arrives where."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Pending, Running, Scheduled, Suspended

from flows import automations, events
from flows.automations import apply_automations, load_automations
from flows.quiet import ADDRESS
from serving.errors import BadInput
from tests.flows.conftest import command, promote, publish

RULES = ("thaw-zombies", "thaw-zombies-crashed", "thaw-stuck", "thaw-refused")
NOTICES = ("thaw-notify", "thaw-notify-runs")
WINDOW = 10  # the least Prefect takes; the file says 90
# what a busy machine, or a wait for a lock until Prefect's busy_timeout, may cost
STALL_SECONDS = 60


@flow(name="retrain")
def nothing() -> None: ...


@flow(name="tells")
def tells() -> bool:
    return events.promoted("in-a-run", 2, "PASSED", "every line")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of a Prefect server of this module's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",  # else notices carry no link
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "1",
    }
    start = ["-m", "flows.prefect_server", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, *start]
    process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/api"
        wait_for(lambda: answers(f"{url}/health") or process.poll(), 120)
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(server, httpx_settings={"timeout": 2 * STALL_SECONDS}) as api:
        yield api


@dataclass
class Listener:
    """A notification service: what it was sent."""

    url: str = ""
    heard: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        made.url = f"http://127.0.0.1:{service.server_port}/hook/s3cret-path"
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield made
        service.shutdown()


@dataclass(frozen=True)
class Run:
    """A run that exists on the server only: the test says what its process would."""

    api: SyncPrefectClient
    id: UUID
    tags: tuple[str, ...]

    def become(self, *states: State[Any]) -> Run:
        for state in states:
            self.api.set_flow_run_state(self.id, state)
            # Prefect 3.8.8 puts an event aside for 15 minutes that arrives while the one before it is being handled
            time.sleep(0.5)
        return self

    def beat(self) -> Run:
        """What the engine sends every 30 s."""
        body = {
            "id": str(UUID(bytes=os.urandom(16))),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{self.id}"},
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in self.tags
            ],
        }
        self.api.request("POST", "/events", json=[body])
        return self

    @property
    def state(self) -> State[Any]:
        state = self.api.read_flow_run(self.id).state
        assert state is not None
        return state


def running(api: SyncPrefectClient, *tags: str) -> Run:
    return created(api, *tags).become(Running())


def created(api: SyncPrefectClient, *tags: str) -> Run:
    deployment = api.create_deployment(api.create_flow(nothing), name="automations", tags=list(tags))
    made = api.create_flow_run_from_deployment(deployment, tags=tags)
    return Run(api, made.id, tags)


def wait_for(done: Callable[[], Any], seconds: float = STALL_SECONDS + 15) -> Any:
    """What `done` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def arrived(api: SyncPrefectClient, resource: str) -> list[dict[str, Any]]:
    body = {"filter": {"resource": {"id": [resource]}}}
    found: list[dict[str, Any]] = api.request("POST", "/events/filter", json=body).json()["events"]
    return found


def test_the_file_covers_every_way_a_run_ends() -> None:
    zombies = load_automations()[0].trigger.model_dump()
    ends = (
        "Completed Failed TimedOut Crashed Cancelling Cancelled Rejected Inconclusive Skipped Refused Suspended Paused"
    )
    assert zombies["expect"] == {f"prefect.flow-run.{name}" for name in ("heartbeat", *ends.split())}
    assert zombies["after"] == {"prefect.flow-run.heartbeat", "prefect.flow-run.Running"}
    assert zombies["within"] == timedelta(seconds=90)


def test_the_notices_name_the_events_that_thaw_emits() -> None:
    told = next(rule for rule in load_automations() if rule.name == "thaw-notify").trigger.model_dump()["expect"]
    source = Path(events.__file__).read_text()
    assert told and all(f'"{event}"' in source for event in told)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("posture: Proactive", "posture: Sometimes", "posture"),
        ("within: 90", "within: 5", "10 seconds"),
        ("within: 90", "withing: 90", "withing"),
        ("state: CRASHED", "state: CRASHED\n      shout: true", "shout"),
        ("name: thaw-refused", "name: thaw-zombies", "each name once"),
        ("- name: thaw-zombies\n", "- name: [\n", "YAML"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_where(before: str, after: str, said: str, tmp_path: Path) -> None:
    wrong = tmp_path / "automations.yaml"
    wrong.write_text(automations.FILE.read_text().replace(before, after, 1))
    with pytest.raises(BadInput, match=said):
        load_automations(wrong)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        load_automations(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("url", ["s3cret", "ftp://s3cret", "http://", "http://[s3cret", "http://a b/s3cret", ""])
def test_a_wrong_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match="THAW_NOTIFY_URL") as refused:
        apply_automations(None, url)
    assert "s3cret" not in str(refused.value)


def test_applied_twice_they_stand_once(client: SyncPrefectClient) -> None:
    first = "http://127.0.0.1:9/s3cret"
    assert apply_automations(client, first) == (*RULES, *NOTICES)
    before = {made.name: made.model_dump() for made in client.read_automations()}
    assert apply_automations(client, first) == (*RULES, *NOTICES)
    assert {made.name: made.model_dump() for made in client.read_automations()} == before
    assert sorted(before) == sorted((*RULES, *NOTICES))
    shown = client.request("POST", "/block_documents/filter", json={}).text
    assert "thaw-notify" in shown and "s3cret" not in shown


def test_their_events_wait_for_a_busy_database(client: SyncPrefectClient) -> None:
    settings = client.request("GET", "/admin/settings").json()

    assert settings["server"]["events"]["messaging_broker"] == "flows.broker"


def test_one_that_differs_is_updated_and_one_switched_off_stays_off(client: SyncPrefectClient) -> None:
    apply_automations(client, None)
    zombies = client.read_automations_by_name("thaw-zombies")[0]
    altered = zombies.model_dump(exclude={"id", "owner_resource"}) | {"description": "altered"}
    client.update_automation(zombies.id, AutomationCore(**altered))
    client.pause_automation(zombies.id)
    apply_automations(client, None)
    (standing,) = client.read_automations_by_name("thaw-zombies")
    assert (standing.id, standing.enabled) == (zombies.id, False)
    assert standing.description == load_automations()[0].description
    client.resume_automation(zombies.id)


def test_without_a_url_the_notices_and_its_secret_are_gone(client: SyncPrefectClient) -> None:
    apply_automations(client, "http://127.0.0.1:9/s3cret")
    assert apply_automations(client, None) == RULES
    assert sorted(made.name for made in client.read_automations()) == sorted(RULES)
    assert [block.name for block in client.read_block_documents()] == []


def test_what_becomes_of_runs(client: SyncPrefectClient, listener: Listener, tmp_path: Path) -> None:
    quick = tmp_path / "automations.yaml"
    quick.write_text(
        automations.FILE.read_text()
        .replace("within: 90", f"within: {WINDOW}")
        .replace("within: 600", f"within: {WINDOW}")
    )
    apply_automations(client, listener.url, quick)
    time.sleep(2)  # the server loads what is new

    foreign = running(client, "others").beat()
    silent = running(client, "thaw").beat()
    stuck = created(client, "thaw").become(Pending())
    # a beat that was on its way while the run was suspended, or ended, is counted after that
    suspended = running(client, "thaw").beat().become(Suspended(timeout_seconds=3600)).beat()
    rejected = running(client, "thaw").beat().become(Completed(name="Rejected")).beat()
    unanswered = running(client, "thaw").beat().become(Suspended(timeout_seconds=1))
    resumed = running(client, "thaw").beat().become(Suspended(timeout_seconds=3600), Scheduled(name="Resuming"))
    resumed.become(Running()).beat()
    failed = running(client, "thaw").become(Failed(message="cannot read /data/anna.png"))
    healthy = running(client, "thaw").beat()  # the last one: from now on it beats all the time

    start, pause = time.monotonic(), 0.0
    ending = (silent, resumed, stuck)
    # Prefect fails a run that nobody answered, and the automation makes a refusal of that
    while (
        time.monotonic() < start + WINDOW + 6
        or not all(run.state.is_final() for run in ending)
        or not unanswered.state.is_completed()
    ):
        beaten = time.monotonic()
        healthy.beat()
        time.sleep(1)
        pause = max(pause, time.monotonic() - beaten)
        assert time.monotonic() < start + WINDOW + 2 * STALL_SECONDS, [run.state for run in (*ending, unanswered)]
    assert stuck.state.is_crashed()
    assert "did not begin" in str(stuck.state.message)
    for gone in (silent, resumed):
        assert (gone.state.name, gone.state.is_crashed()) == ("Crashed", True)
        assert "no sign of life" in str(gone.state.message)
    assert (unanswered.state.name, unanswered.state.message) == ("Refused", "nobody answered in time: refused")
    assert [run.state.name for run in (foreign, suspended, rejected)] == ["Running", "Suspended", "Rejected"]
    stalled = pause > WINDOW / 2  # no beat reached the server for so long that it may have given the run up
    assert healthy.state.name == "Running" or stalled
    wait_for(lambda: (str(failed.id), "Failed") in heard(listener))
    ends = {(str(silent.id), "Crashed"), (str(resumed.id), "Crashed"), (str(unanswered.id), "Refused")}
    ends |= {(str(stuck.id), "Crashed")} | ({(str(healthy.id), "Crashed")} if stalled else set())
    assert heard(listener) <= {*ends, (str(failed.id), "Failed")}  # Crashed and Refused may be among those put aside
    assert "anna.png" not in json.dumps(listener.heard)


def heard(listener: Listener) -> set[tuple[str, str]]:
    """Which runs' ends were told; the server tells each at least once."""
    return {(notice["link"].rpartition("/")[2], notice["state"]) for notice in listener.heard}


def test_a_model_s_news_reaches_the_notification_url(
    client: SyncPrefectClient, server: str, listener: Listener
) -> None:
    apply_automations(client, listener.url)
    time.sleep(2)
    with temporary_settings({PREFECT_API_URL: server}):
        assert events.promoted("cells", 4, "PASSED", 'picture "a.png"', "run-1")
        assert events.rejected("cells", 5, "REJECTED", "recall", "run-2")
        assert events.rejected("cells", None, "REJECTED", "stopped early", "run-2")
        assert events.rolled_back("cells", 3, "PASSED", "worse", who="somebody")
        assert events.approval_asked("cells", 6, "PASSED", "recall", "run-3")
    wait_for(lambda: len(listener.heard) >= 5)
    said = sorted(notice["text"].partition(" http://")[0] for notice in listener.heard)
    assert said == [
        "cells was not promoted (REJECTED)",
        "cells:3 is the champion again after a rollback (PASSED)",
        "cells:4 is the champion now (PASSED)",
        "cells:5 was not promoted (REJECTED)",
        "cells:6 waits for approval (PASSED)",
    ]
    assert "a.png" not in json.dumps(listener.heard)
    assert all(notice["link"].endswith("thaw.model.cells") for notice in listener.heard)


def test_an_event_of_a_run_names_it(client: SyncPrefectClient, server: str) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        state = tells(return_state=True)
    assert state.result()
    (event,) = wait_for(lambda: arrived(client, "thaw.model.in-a-run"))
    related = {resource["prefect.resource.role"]: resource["prefect.resource.id"] for resource in event["related"]}
    assert related["flow-run"] == f"prefect.flow-run.{state.state_details.flow_run_id}"


def test_a_command_s_event_has_arrived_when_it_ends(client: SyncPrefectClient, server: str) -> None:
    code = "from flows import events; print(events.rolled_back('by-hand', 1, 'PASSED', 'worse', who='me'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PREFECT_API_URL": server, "PYTHONPATH": str(automations.FILE.parents[1])},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr
    (event,) = wait_for(lambda: arrived(client, "thaw.model.by-hand"))
    assert event["payload"] == {
        "name": "by-hand", "version": 1, "verdict": "PASSED", "reason": "worse", "who": "me"
    }  # fmt: skip


def test_a_running_platform_hears_of_a_promotion_and_a_rollback_by_hand(
    client: SyncPrefectClient, server: str, home: Path, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(bentoml_home))
    publish(home, 2, "told")
    promote(home, 1, name="told")
    (home / ADDRESS).write_text(json.dumps({"api": server, "pid": os.getpid()}))
    for arguments in (("promote", "told:2"), ("rollback", "told", "--why", "worse")):
        ran = command(*arguments, cwd=home)
        assert ran.status == 0, ran.err
    heard = wait_for(lambda: found if len(found := arrived(client, "thaw.model.told")) == 2 else None)
    assert sorted((event["event"], event["payload"]["version"]) for event in heard) == [
        ("thaw.model.promoted", 2),
        ("thaw.model.rolled_back", 1),
    ]


def test_without_an_api_nothing_is_started(tmp_path: Path) -> None:
    code = "from flows import events; print(events.promoted('a', 1, 'PASSED', 'x'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(automations.FILE.parents[1])},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr
    assert not (tmp_path / "prefect.db").exists()


@pytest.mark.parametrize("silent", [True, False], ids=["accepts and says nothing", "refuses"])
def test_an_api_that_does_not_answer_holds_nobody_up(silent: bool) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        if silent:
            dead.listen()
        start = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{dead.getsockname()[1]}/api"}):
            assert not events.promoted("a", 1, "PASSED", "x")
        assert time.monotonic() - start < 7
