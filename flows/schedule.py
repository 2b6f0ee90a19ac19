"""`thaw schedule`: the deployment `retrain/NAME` for a model of one's own, beside those of prefect.yaml.

It is kept as `deployments/NAME.yaml` under the home, in Prefect's own format: no tracked file changes, and `thaw up`
brings it back to a server that was set up anew.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pydantic import ValidationError

from flows.configure import FOLDER, PREFECT_FILE, check_server, deploy
from flows.parameters import Parameters
from serving import sealed
from serving.errors import BadInput

RESERVED = ("nightly", "on-demand", "on-new-data")  # the deployments of prefect.yaml


def schedule(parameters: Parameters, cron: str, timezone: str, active: bool, home: Path) -> dict[str, Any]:
    """Creates `retrain/NAME`, or changes it; it also starts when the event `thaw.dataset.updated` names the model.

    Writes `deployments/NAME.yaml`. Raises BadInput: no server, a wrong cron line or time zone, a reserved name;
    DeployError. Then nothing is written.
    """
    if parameters.name in RESERVED:
        raise BadInput(f"expected a name other than {', '.join(RESERVED)}, which are taken: choose another")
    if "{{" in parameters.model_dump_json():  # never JSON's own
        raise BadInput(
            "expected parameters without {{, found one: Prefect would take it for a template; write it apart"
        )
    _check_cron(cron, timezone)
    check_server()
    text = yaml.safe_dump(_prefect_file(parameters, cron, timezone, active), sort_keys=False)
    file = home / FOLDER / f"{parameters.name}.yaml"
    with TemporaryDirectory(prefix="thaw-") as place:  # one that Prefect refuses would stop every later `thaw up`
        tried = Path(place, file.name)
        tried.write_text(text, encoding="utf-8")
        deploy(tried, home)
    file.parent.mkdir(parents=True, exist_ok=True)
    sealed.write_text(file, text)
    return {
        "deployment": f"retrain/{parameters.name}",
        "cron": cron,
        "timezone": timezone,
        "active": active,
        "file": str(file),
    }


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
                "name": f"retrain/{name} on new data",
                "description": f"The pictures of {name} changed.",
                "enabled": True,
                "expect": ["thaw.dataset.updated"],
                "match": {"prefect.resource.id": f"thaw.dataset.{name}"},
            }
        ],
    }
    head = {key: whole[key] for key in ("name", "prefect-version", "build", "push", "pull")}
    return head | {"deployments": [own]}


def _check_cron(cron: str, timezone: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        found = "; ".join(detail["msg"] for detail in error.errors())
        raise BadInput(
            f"expected a cron line such as '0 2 * * *' and a time zone such as Europe/Berlin, found {cron!r} and "
            f"{timezone!r} ({found}): correct it"
        ) from None
