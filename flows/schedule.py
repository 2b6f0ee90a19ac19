"""`thaw schedule`: the deployment `retrain/NAME` for a model of one's own, beside those of prefect.yaml.

It is kept as `deployments/NAME.yaml` under the home, in Prefect's own format: no tracked file changes, and `thaw up`
brings it back to a server that was set up anew.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from flows.configure import FOLDER, POOL, PREFECT_FILE, check_server, deploy
from flows.parameters import Parameters
from serving import sealed
from serving.errors import BadInput

RESERVED = ("nightly", "on-demand", "on-new-data")  # the deployments of prefect.yaml


def schedule(parameters: Parameters, cron: str, timezone: str, active: bool, home: Path) -> dict[str, Any]:
    """Creates `retrain/NAME`, or changes it; it also starts when the event `thaw.dataset.updated` names the model.

    Writes `deployments/NAME.yaml`. The caller has checked the clock with `check_cron`. Raises BadInput: no server,
    or one without the work pool, a reserved name; DeployError. Then nothing is written.
    """
    if parameters.name in RESERVED:
        raise BadInput(f"expected a name other than {', '.join(RESERVED)}, which are taken: choose another")
    if "{{" in parameters.model_dump_json():  # never JSON's own
        raise BadInput(
            "expected parameters without {{, found one: Prefect would take it for a template; write it apart"
        )
    check_server()
    _check_pool()
    whole = _prefect_file(parameters, cron, timezone, active)
    text = yaml.safe_dump(whole, sort_keys=False)
    file = home / FOLDER / f"{parameters.name}.yaml"
    deploy(whole, file, home)  # before it is kept: one that Prefect refuses would stop every later `thaw up`
    file.parent.mkdir(parents=True, exist_ok=True)
    sealed.write_text(file, text)
    return {
        "deployment": f"retrain/{parameters.name}",
        "cron": cron,
        "timezone": timezone,
        "active": active,
        "file": str(file),
    }


def remove(name: str, home: Path) -> dict[str, Any]:
    """Deletes `retrain/NAME` with its schedule and trigger, and `deployments/NAME.yaml`; its runs stay.

    Raises BadInput: no server, or no such schedule. Then nothing is deleted.
    """
    check_server()
    kept = {path.stem: path for path in sorted((home / FOLDER).glob("*.yaml"))}
    if name not in kept:
        known = ", ".join(kept) or "none"
        raise BadInput(f"expected the name of a model that has a schedule, found {name!r}: those of {home} are {known}")
    # the server first: if it fails, the same command does it again
    with get_client(sync_client=True) as client:
        for automation in client.read_automations_by_name(_trigger_name(name)):  # outlives its deployment
            client.delete_automation(automation.id)
        with suppress(ObjectNotFound):  # somebody deleted it in the UI
            client.delete_deployment(client.read_deployment_by_name(f"retrain/{name}").id)
    kept[name].unlink()
    return {"deployment": f"retrain/{name}", "removed": str(kept[name])}


def _prefect_file(parameters: Parameters, cron: str, timezone: str, active: bool) -> dict[str, Any]:
    """prefect.yaml with the one deployment: pool, environment, tags and version are those of `nightly`."""
    whole = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))
    nightly = next(entry for entry in whole["deployments"] if entry["name"] == "nightly")
    name = parameters.name
    own = nightly | {
        "name": name,
        "description": f"Retrains {name}: by schedule, by hand, or on the event `thaw.dataset.updated`.",
        "parameters": parameters.model_dump(mode="json", exclude_unset=True),
        "schedules": [{"cron": cron, "timezone": timezone, "active": active}],
        "triggers": [
            {
                "name": _trigger_name(name),
                "description": f"The pictures of {name} changed.",
                "enabled": True,
                "expect": ["thaw.dataset.updated"],
                "match": {"prefect.resource.id": f"thaw.dataset.{name}"},
            }
        ],
    }
    head = {key: whole[key] for key in ("name", "prefect-version", "build", "push", "pull")}
    return head | {"deployments": [own]}


def _trigger_name(name: str) -> str:
    return f"retrain/{name} on new data"


def check_cron(cron: str, timezone: str) -> None:
    """Raises BadInput for what is no cron line of five fields or an alias, or no time zone."""
    from prefect.client.schemas.schedules import CronSchedule

    try:
        if not timezone:
            raise ValueError("no time zone")
        # Prefect takes a sixth field for seconds, which other schedulers write first
        if len(cron.split()) != 5 and not cron.startswith("@"):
            raise ValueError(f"{len(cron.split())} fields: wanted are minute, hour, day, month and weekday")
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:  # pydantic's is one
        found = "; ".join(each["msg"] for each in error.errors()) if isinstance(error, ValidationError) else str(error)
        raise BadInput(
            f"expected a cron line such as '0 2 * * *' and a time zone such as Europe/Berlin, found {cron!r} and "
            f"{timezone!r} ({found}): correct it"
        ) from None


def _check_pool() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            raise BadInput(
                f"expected Prefect's work pool {POOL}, found none: run `python -m flows.configure` first"
            ) from None
