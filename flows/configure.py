"""Brings a Prefect server to the state that Thaw needs: work pool, queues, deployments, automations. Idempotent.

    python -m flows.configure [--runs N]

`thaw up` runs it in a process of its own, with the server's address in the environment; for a server of your own do the
same by hand. What a person changed in the UI stays, but for what the files say; what was switched on or off stays so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows import quiet
from flows.automations import apply_automations
from flows.demo import write_manifest
from flows.result import code_revision
from serving.errors import BadInput, ThawError
from serving.settings import find_home, load_settings, model_store

POOL = "thaw"
CHECKOUT = Path(__file__).parent.parent
PREFECT_FILE = CHECKOUT / "prefect.yaml"
FOLDER = "deployments"  # under the home: those of `thaw schedule`
# by priority: what moves a champion never waits for a training
QUEUES = ("release", "retrain")


class DeployError(ThawError):
    """Prefect did not take a deployment."""

    code = "deploy_failed"


def configure(runs: int, home: Path) -> None:
    """`runs`: how many retrains may go on at a time in the pool.

    Raises BadInput: no server; DeployError, and what Prefect's client does.
    """
    check_server()
    with get_client(sync_client=True) as client:
        _create_pool(client)
        for priority, queue in enumerate(QUEUES, start=1):
            _create_queue(client, queue, priority, runs if queue == "retrain" else None)
        apply_automations(client, os.environ.get("THAW_NOTIFY_URL") or None)
    try:
        write_manifest(home)
    except BadInput as error:
        print(f"the demo's deployments cannot run here: {error}")
    for file in (PREFECT_FILE, *sorted((home / FOLDER).glob("*.yaml"))):
        deploy(_as_switched(yaml.safe_load(file.read_text(encoding="utf-8"))), file, home)


def deploy(whole: dict[str, Any], file: Path, home: Path) -> None:
    """Creates or changes the deployments of `whole`, in Prefect's format. Raises DeployError, which names `file`."""
    settings = load_settings()
    environment = quiet.without_defaults() | {
        "PREFECT_API_URL": quiet.prefect_api(),
        "THAW_HOME": str(home),
        "THAW_LEDGER": settings.ledger or "",
        "BENTOML_HOME": str(model_store()),
        "THAW_REVISION": (code_revision() or "unversioned")[:12],
        "DO_NOT_TRACK": "1",
    }
    with TemporaryDirectory(prefix="thaw-") as place:
        given = Path(place, file.name)
        given.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(given)]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:  # the cause stands in Prefect's last lines, on either stream
        said = f"{done.stdout[-500:]} {done.stderr[-1000:]}"
        raise DeployError(f"expected Prefect to take the deployments of {file}, it did not: {said}")


def _as_switched(whole: dict[str, Any]) -> dict[str, Any]:
    """The deployments, each schedule and trigger on or off as it is on the server, where it stands there."""
    with get_client(sync_client=True) as client:
        for entry in whole["deployments"]:
            try:
                standing = client.read_deployment_by_name(f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}")
            except ObjectNotFound:
                continue
            entry["paused"] = standing.paused
            for schedule in entry.get("schedules", ()):
                schedule["active"] = any(each.active for each in standing.schedules)
            own = client.read_resource_related_automations(f"prefect.deployment.{standing.id}")
            for trigger in entry.get("triggers", ()):
                trigger["enabled"] = any(each.enabled for each in own if each.name == trigger["name"])
    return whole


def check_server() -> None:
    """Raises BadInput where no Prefect server answers: an ephemeral one would forget a deployment."""
    api = quiet.prefect_api()
    if not api.startswith("http"):
        raise BadInput(f"expected a Prefect server, found {api}: start `thaw up`, or set PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            client.hello()  # /health asks for no password
    except httpx.HTTPError as error:
        told = " ".join(str(error).split())[:100]
        raise BadInput(
            f"expected the Prefect server {api} to answer, it did not ({type(error).__name__}: {told}): start "
            "`thaw up`, or correct PREFECT_API_URL and PREFECT_API_AUTH_STRING"
        ) from None


def _create_pool(client: SyncPrefectClient) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Thaw's runs"))


def _create_queue(client: SyncPrefectClient, name: str, priority: int, limit: int | None) -> None:
    try:
        queue = client.create_work_queue(name=name, work_pool_name=POOL, priority=priority)
    except ObjectAlreadyExists:
        queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
    client.update_work_queue(queue.id, concurrency_limit=limit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    try:
        configure(parser.parse_args().runs, find_home())
    except ThawError as refused:
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(refused.exit_status)
