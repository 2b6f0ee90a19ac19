"""`python -m flows.configure` and `thaw schedule` against a real Prefect server: what comes back, and what stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.utilities.templating import apply_values

from flows.begun import keep_parameters
from flows.configure import CHECKOUT, POOL, DeployError, configure, deploy
from flows.parameters import checked
from flows.schedule import schedule
from serving.errors import BadInput
from tasks.release.unchanged import RESULT
from tests.flows.conftest import Ran, errors, settings, thaw

SECRET = "anna:s3cret"
OWN = {"name": "cells", "data": {"root": "/pictures"}}
NAMES = ("retrain/nightly", "retrain/on-demand", "retrain/on-new-data", "promote/on-demand", "rollback/on-demand")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of a Prefect server of this module's own, which wants a password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PREFECT_SERVER_API_AUTH_STRING": SECRET}
    command = ["-m", "flows.prefect_server", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command], env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{url}/health"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, auth=("anna", "s3cret"), timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """This process, and those it starts, use the server."""
    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    with (
        temporary_settings({PREFECT_API_URL: server, PREFECT_API_AUTH_STRING: SECRET}),
        get_client(sync_client=True) as made,
    ):
        yield made


@pytest.fixture
def pool(client: SyncPrefectClient) -> SyncPrefectClient:
    """The same with a work pool, whichever test ran before."""
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    return client


def configured(home: Path, **environment: str) -> Ran:
    """`python -m flows.configure` as a person types it."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.configure"],
        cwd=CHECKOUT, env=os.environ | {"THAW_HOME": str(home)} | environment, capture_output=True, text=True,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def state_of(client: SyncPrefectClient, name: str) -> tuple[bool, list[bool], list[bool]]:
    """Whether a deployment is paused, its schedules are active, and its triggers are enabled."""
    found = client.read_deployment_by_name(name)
    related = client.read_resource_related_automations(f"prefect.deployment.{found.id}")
    return found.paused, [each.active for each in found.schedules], [each.enabled for each in related]


# the first test of the module to use the server: it has no pool yet
def test_a_server_without_the_pool_names_the_command(client: SyncPrefectClient, home: Path) -> None:
    with pytest.raises(BadInput, match=r"work pool thaw, found none: run `python -m flows.configure` first"):
        schedule(checked(OWN), "0 2 * * *", "UTC", True, home)
    assert not list(home.iterdir())


def test_the_demo_starts_nothing_by_itself_and_what_a_person_switched_stays_so(
    client: SyncPrefectClient, home: Path
) -> None:
    """One test for all of it: each time every deployment is brought costs most of a minute on a busy machine."""
    ran = configured(home)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert client.read_work_pool(POOL).type == "process"
    # whoever retrains their own pictures gets no second model at night
    assert state_of(client, "retrain/nightly") == (False, [False], [])
    assert state_of(client, "retrain/on-new-data") == (False, [], [False])
    for name in NAMES:
        assert not client.read_deployment_by_name(name).paused

    kept = schedule(checked(OWN), "0 2 * * *", "Europe/Berlin", True, home)
    assert state_of(client, "retrain/cells") == (False, [True], [True])
    _switch(client, "retrain/cells", False)
    _switch(client, "retrain/nightly", True)
    client.pause_deployment(client.read_deployment_by_name("promote/on-demand").id)

    configure(1, home)

    assert state_of(client, "retrain/cells") == (False, [False], [False])
    assert state_of(client, "retrain/nightly") == (False, [True], [])
    assert state_of(client, "promote/on-demand") == (True, [], [])
    # a command that says so is a person who switches it on
    assert schedule(checked(OWN), "0 3 * * *", "Europe/Berlin", True, home) == kept | {"cron": "0 3 * * *"}
    assert state_of(client, "retrain/cells") == (False, [True], [True])


def _switch(client: SyncPrefectClient, name: str, to: bool) -> None:
    """What the UI does: the clock, and the automation of the event."""
    found = client.read_deployment_by_name(name)
    for clock in found.schedules:
        client.update_deployment_schedule(found.id, clock.id, active=to)
    for automation in client.read_resource_related_automations(f"prefect.deployment.{found.id}"):
        (client.resume_automation if to else client.pause_automation)(automation.id)


def test_what_was_deployed_is_what_is_kept_until_it_is_removed(pool: SyncPrefectClient, home: Path) -> None:
    """The last run's parameters, in a directory where the pictures lie in a folder called like the model."""
    Path("cells").mkdir()
    keep_parameters(home / "runs" / "1", checked(OWN))
    (home / "runs" / "1" / RESULT).write_text("{}")
    chosen = ("--cron", "0 2 * * 1", "--timezone", "Europe/Berlin", "--paused", *settings("finetune.epochs=3"))
    file = home / "deployments" / "cells.yaml"
    ran = thaw("schedule", "cells", "--json", *chosen)
    assert ran.status == 0, ran.err
    assert ran.document == {
        "deployment": "retrain/cells", "cron": "0 2 * * 1", "timezone": "Europe/Berlin", "active": False,
        "file": str(file),
    }  # fmt: skip
    assert "no pictures at /pictures here" in ran.err
    (own,) = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    assert checked(own["parameters"]) == checked(OWN | {"finetune": {"epochs": 3}})
    assert apply_values(own["parameters"], {}) == own["parameters"], "Prefect changes nothing in them"
    deployed = pool.read_deployment_by_name("retrain/cells")
    assert checked(deployed.parameters) == checked(own["parameters"])
    assert [each.active for each in deployed.schedules] == [False]

    ran = thaw("schedule", "cells", "--remove", "--json")
    assert (ran.status, ran.document) == (0, {"deployment": "retrain/cells", "removed": str(file)})
    assert not file.exists()
    assert not pool.read_automations_by_name("retrain/cells on new data")
    with pytest.raises(ObjectNotFound):
        pool.read_deployment_by_name("retrain/cells")
    file.write_text("{}")  # somebody deleted it in the UI before
    assert thaw("schedule", "cells", "--remove").out == f"retrain/cells: removed, with {file}\n"
    ran = thaw("schedule", "cells", "--remove")
    assert ran.status == 2
    assert f"a model that has a schedule, found 'cells': those of {home} are none" in ran.err


def test_what_prefect_does_not_take_is_told_with_its_cause(client: SyncPrefectClient, home: Path) -> None:
    wrong: dict[str, Any] = {"deployments": [{"name": "x", "entrypoint": "flows/nowhere.py:retrain"}]}
    file = home / "deployments" / "x.yaml"
    with pytest.raises(DeployError, match=r"nowhere\.py") as told:
        deploy(wrong, file, home)
    assert f"expected Prefect to take the deployments of {file}, it did not:" in str(told.value)


def test_a_wrong_password_is_one_line(client: SyncPrefectClient, home: Path) -> None:
    ran = configured(home, PREFECT_API_AUTH_STRING="anna:wrong")
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert ran.err == f"{line}\n" and "401" in line and "PREFECT_API_AUTH_STRING" in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("api", "words"),
    [
        ("", "found an ephemeral server"),
        ("http://127.0.0.1:9/api", "the Prefect server http://127.0.0.1:9/api to answer"),
    ],
)
def test_without_a_server_it_is_one_line(api: str, words: str, home: Path) -> None:
    ran = configured(home, PREFECT_API_URL=api)
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert ran.err == f"{line}\n" and words in line
    assert not list(home.iterdir())
