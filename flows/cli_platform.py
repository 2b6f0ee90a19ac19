"""The commands around schedules and the machine: up, init, schedule, doctor."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.options import Config, DeviceOption, Json, Set, checked_device, err, escaped
from serving.errors import BadInput

if TYPE_CHECKING:
    from flows.parameters import Parameters


def up(
    host: Annotated[str, typer.Option(help="Address to bind to; beyond loopback needs secrets.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the prediction service.")] = 3000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server and its UI.")] = 4200,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Without the prediction service.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="Model the service answers with.")] = None,
    device: DeviceOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Retrains that may go on at a time on this machine.")] = 1,
    as_json: Json = False,
) -> None:
    """Prefect server, deployments, worker and prediction service on this machine, until Ctrl-C or SIGTERM."""
    from flows.platform import Options
    from flows.up import bring_up

    def ready(body: dict[str, object]) -> None:
        if as_json:
            print(json.dumps(body), flush=True)
        ui = str(body["prefect"]).removesuffix("/api")
        tell(f"ready: Prefect UI {ui}" + (f", predictions {body['service']}/ui/" if body["service"] else ""))

    def tell(text: str) -> None:
        err.print(escape(text), highlight=False, soft_wrap=True)

    options = Options(host, port, prefect_port, not no_serve, name, checked_device(device), runs)
    bring_up(options, tell, ready)
    tell("bye")


def init(
    data: Annotated[Path, typer.Argument(help="Folder with one folder per class, or a CSV manifest.")],
    name: Annotated[str | None, typer.Option("--name", help="Model name; default: the folder's.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Where to write it.")] = Path("thaw.yaml"),
    as_json: Json = False,
) -> None:
    """Write a commented configuration file for your pictures."""
    from flows.init import write_config

    body = write_config(data, name, output)
    if as_json:
        print(json.dumps(body))
    else:
        print(
            f"{body['config']}: {body['pictures']} pictures of {len(body['classes'])} classes; read it, change it, then"
        )
        print(f"thaw retrain --config {shlex.quote(body['config'])}")


def schedule(
    name: Annotated[str, typer.Argument(help="Model name; the deployment will be retrain/NAME.")],
    cron: Annotated[str | None, typer.Option("--cron", help="When, e.g. '0 2 * * *': every night at two.")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of the cron line, e.g. Europe/Berlin.")] = "UTC",
    config: Config = None,
    settings: Set = None,
    paused: Annotated[bool, typer.Option("--paused", help="Create it, but start nothing by the clock yet.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the deployment and what is kept of it.")] = False,
    as_json: Json = False,
) -> None:
    """Retrain a model by the clock, and on new data. Without --config: as its last run was."""
    from flows import quiet
    from serving.settings import find_home

    if (cron is None) != remove:
        raise BadInput(f"expected one of --cron and --remove, found {'both' if remove else 'neither'}: give one")
    home = find_home()
    quiet.use_platform(home)

    from flows import schedule as schedules

    if cron is None:
        body = schedules.remove(name, home)
        told = f"{body['deployment']}: removed, with {body['removed']}"
    else:
        schedules.check_cron(cron, timezone)
        parameters = _scheduled(name, home, config, settings or [])
        body = schedules.schedule(parameters, cron, timezone, not paused, home)
        told = f"{body['deployment']}: {cron} ({timezone}){', paused' if paused else ''}; kept in {body['file']}"
    print(json.dumps(body) if as_json else told)


def _scheduled(name: str, home: Path, config: Path | None, settings: list[str]) -> Parameters:
    from flows.begun import choose, last_parameters
    from flows.parameters import read_parameters

    if config is None:  # NAME is a model's, also where a folder is called so
        last = last_parameters(home, name, "write its parameters with `thaw init`, and give --config")
        parameters = read_parameters(last.model_dump(mode="json"), None, settings)
    else:
        parameters, _ = choose(None, name, config, settings, None)
    if not parameters.data.root.exists():  # the worker's machine may be another
        err.print(
            escaped(f"no pictures at {parameters.data.root} here: the runs fail unless the worker finds them there")
        )
    return parameters


def doctor(as_json: Json = False) -> int:
    """Try what Thaw needs of this machine; exit status 1 if anything is broken."""
    from flows.doctor import examine, print_findings

    body = examine()
    if as_json:
        print(json.dumps(body))
    else:
        print_findings(Console(), body)
    return 0 if body["works"] else 1
