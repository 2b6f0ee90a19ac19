"""The commands around published models: serve, predict, show, promote, rollback, gc."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from flows.options import DeviceOption, Json, Name, Wait, checked_device, err, escaped


def serve(
    name: Name = None,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    device: DeviceOption = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Bind beyond loopback without THAW_API_TOKEN.")] = False,
    as_json: Json = False,
) -> None:
    """Answer predictions over HTTP with the champion."""
    from flows.serve import run_server

    run_server(name, host, port, checked_device(device), insecure, as_json)


def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    name: Annotated[str | None, typer.Option("--name", help="NAME or NAME:VERSION; default: the champion.")] = None,
    device: DeviceOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File for the results: .csv, .json or .jsonl; it is whole or not there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict pictures here, through the serving predictor. Exit status 2 if one of them could not be."""
    from flows import results
    from flows.predict import count_files, open_model, predict_files

    if output is not None:
        results.check_output(output)
    total = count_files(images)
    model = open_model(name, checked_device(device))
    with results.counting(err, total, visible=output is not None) as looked_at:
        tally = results.Tally()
        found = tally.of(predict_files(model, images, looked_at))
        if output is not None:
            results.write_file(output, found, model.predictor.classes)
        elif as_json:
            results.print_json(found, sys.stdout, one=len(images) == 1 and images[0].is_file())
        else:
            results.print_lines(found, sys.stdout)
    if output is not None:
        body = {"output": str(output), "files": tally.files, "failed": tally.failed, "model": model.about()}
        print(json.dumps(body) if as_json else f"{output}: {tally.files} files, {tally.failed} could not be predicted")
    if tally.failed:
        raise typer.Exit(2)


def show(
    reference: Annotated[str | None, typer.Argument(metavar="[NAME[:VERSION]]")] = None, as_json: Json = False
) -> None:
    """Champion, hold, versions, verdicts and history."""
    from flows.show import describe_models, print_models

    body = describe_models(reference)
    if as_json:
        print(json.dumps(body))
    else:
        print_models(Console(), body)


def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION")],
    override: Annotated[
        str | None, typer.Option(help="Promote although it did not pass, or is held; the reason is kept.")
    ] = None,
    release_hold: Annotated[bool, typer.Option("--release-hold", help="End the hold that a rollback began.")] = False,
    wait: Wait = 60,
    as_json: Json = False,
) -> None:
    """Make a published version the champion. Exit status 1 if a running server does not answer with it in time."""
    from flows.release import promote_version

    _moved(promote_version(reference, override, release_hold), "promote", wait, as_json)


def rollback(
    name: Annotated[str, typer.Argument()],
    to: Annotated[int | None, typer.Option(help="Version; default: the champion before this one.")] = None,
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    wait: Wait = 60,
    as_json: Json = False,
) -> None:
    """Go back to the previous champion and hold automatic promotion. Exit status 1 as for promote."""
    from flows.release import rollback_version

    _moved(rollback_version(name, to, why), "rollback", wait, as_json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each name that stay.")] = 5,
    as_json: Json = False,
) -> None:
    """Remove old versions from the model store and what interrupted runs left; never a recent champion."""
    from flows.gc import collect, print_collected

    body = collect(keep, dry_run)
    if as_json:
        print(json.dumps(body))
    else:
        print_collected(Console(), body)


def _moved(body: dict[str, Any], kind: Literal["promote", "rollback"], wait: float, as_json: bool) -> None:
    """Says who is champion, then what the running servers make of it."""
    from dataclasses import asdict

    from flows import quiet
    from flows.release import answers, tell_move, wait_for_servers
    from serving.settings import existing_home

    quiet.use_platform(existing_home())  # or a running `thaw up` would not hear of it
    label = f"{body['name']}:{body['version']}"
    say = err.print if as_json else print
    say(f"{label} is the champion (generation {body['generation']}{', on hold' if body['hold'] else ''})")
    tell_move(body, kind)
    running = wait_for_servers(body, wait, lambda text: say(f"{text} {label}"))
    if as_json:
        print(json.dumps(body | {"servers": [asdict(server) for server in running]}))
    elif not running:
        print("no server is running")
    late = [server for server in running if not answers(server, body)]
    for server in late:
        reason = server.error or (f"still answers version {server.version}" if server.version else "no answers yet")
        err.print(f"[red]{server.place}:[/] {escaped(reason)}", highlight=False, soft_wrap=True)
    if late and wait:
        raise typer.Exit(1)
