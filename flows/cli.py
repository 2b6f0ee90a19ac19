"""The `thaw` command.

Each command imports what it needs when it runs: predict and serve load neither torch nor prefect.

Exit status: 0 done; 2 bad input or configuration; 3 REJECTED; 4 INCONCLUSIVE; 1 anything else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import quiet
from serving.errors import ThawError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrain, gate and serve image classifiers.",
)
err = Console(stderr=True)
_STATUS = {"PASSED": 0, "REJECTED": 3, "INCONCLUSIVE": 4}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any parameter, e.g. finetune.epochs=8; may be repeated.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with the flow's parameters.")]
Name = Annotated[str | None, typer.Option("--name", help="Model name; may be left out when there is only one.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cuda or cpu.")]


class Interrupted(ThawError):
    """Ctrl-C or SIGTERM."""

    code = "interrupted"
    exit_status = 1


def main() -> None:
    """Runs the command line; every error Thaw raises on purpose is one line and a stable exit status."""
    quiet.set_defaults()
    try:
        app()
    except ThawError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": {"code": error.code, "message": str(error)}}))
        err.print(f"[bold red]error:[/] {_escaped(error)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)


@app.command()
def demo(settings: Set = None, config: Config = None, as_json: Json = False) -> None:
    """The whole pipeline on 2,624 real photos of solar cells."""
    from flows.demo import demo_values, write_manifest
    from serving.settings import find_home

    home = find_home()
    _retrain(demo_values(home), config, settings or [], as_json, before=lambda: write_manifest(home))


@app.command()
def retrain(
    data: Annotated[Path, typer.Argument(help="Folder with one folder per class, or a CSV manifest.")],
    name: Annotated[str, typer.Option("--name", help="Model name: lowercase letters, digits and dashes.")],
    config: Config = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Retrain, certify, publish and promote a model on your own pictures."""
    # like --set, so that what stands on the command line wins over the file; JSON, so that YAML takes it as text
    given = [f"name={json.dumps(name)}", f"data.root={json.dumps(str(data.expanduser().absolute()))}"]
    _retrain({}, config, [*given, *(settings or [])], as_json)


@app.command()
def serve(
    name: Name = None,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    device: DeviceOption = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Bind beyond loopback without THAW_API_TOKEN.")] = False,
) -> None:
    """Answer predictions over HTTP with the champion."""
    from flows.serve import run_server

    run_server(name, host, port, _device(device), insecure)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    name: Annotated[str | None, typer.Option("--name", help="NAME or NAME:VERSION; default: the champion.")] = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Predict pictures here, through the serving predictor."""
    from flows.predict import predict_files

    results = predict_files(images, name, _device(device))
    failed = [result for result in results if "error" in result]
    if as_json:
        one = len(images) == 1 and images[0].is_file()
        print(json.dumps(results[0] if one else results))
    else:
        for result in results:
            answer = result.get("error", {}).get("message") or f"{result['label']}  {result['probability']:.4f}"
            print(f"{result['path']}  {answer}")
    if failed:
        raise typer.Exit(2)


@app.command()
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


@app.command()
def gate(
    evaluation: Annotated[Path, typer.Argument(metavar="EVALUATION.json", help="Of a run: runs/RUN/evaluation-1/.")],
    config: Config = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Replay a verdict's arithmetic from its evidence, or see what another gate would have said."""
    from flows.console import print_replay
    from flows.evidence import replay_gate

    body = replay_gate(evaluation, config, settings or [])
    if as_json:
        print(json.dumps(body))
    else:
        print_replay(Console(), body)
    raise typer.Exit(_STATUS[body["verdict"]])


@app.command()
def verify(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION")],
    data: Annotated[Path, typer.Argument(help="The pictures it was made of: folder or CSV manifest.")],
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Predict the original pictures again, here, and compare the verdict. Exit status 1 if it is another one."""
    from flows.console import LiveDisplay, print_replay
    from flows.evidence import verify_version

    with LiveDisplay(err) as display:
        display.started("verify")
        body = verify_version(
            reference, data.expanduser().absolute(), _device(device) or "auto", display.progress("verify")
        )
    if as_json:
        print(json.dumps(body))
    else:
        print_replay(Console(), body)
    raise typer.Exit(0 if body["same"] else 1)


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION")],
    override: Annotated[
        str | None, typer.Option(help="Promote although it did not pass, or is held; the reason is kept.")
    ] = None,
    release_hold: Annotated[bool, typer.Option("--release-hold", help="End the hold that a rollback began.")] = False,
    as_json: Json = False,
) -> None:
    """Make a published version the champion."""
    from flows.release import promote_version

    _moved(promote_version(reference, override, release_hold), as_json)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument()],
    to: Annotated[int | None, typer.Option(help="Version; default: the champion before this one.")] = None,
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: Json = False,
) -> None:
    """Go back to the previous champion and hold automatic promotion."""
    from flows.release import rollback_version

    _moved(rollback_version(name, to, why), as_json)


def _retrain(
    base: dict[str, Any],
    config: Path | None,
    settings: list[str],
    as_json: bool,
    before: Callable[[], str | None] = lambda: None,
) -> None:
    """Runs the flow. `before` is called once the parameters are known to be right; what it returns is told."""
    from flows.parameters import read_parameters

    parameters = read_parameters(base, config, settings)  # a wrong key is told before anything heavy is loaded
    err.print(f"Prefect API: {quiet.prefect_api()}", highlight=False)
    note = before()
    if note:
        err.print(note, highlight=False, soft_wrap=True)

    from flows.console import LiveDisplay, print_result
    from flows.retrain import retrain as flow
    from flows.steps import DISPLAY

    # as Ctrl-C: otherwise a scheduler's SIGTERM would leave the ephemeral Prefect server behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # libraries print where they download from; stdout is the result's
    with LiveDisplay(err) as display, redirect_stdout(sys.stderr):
        DISPLAY.set(display)
        try:
            result = flow(**{key: getattr(parameters, key) for key in type(parameters).model_fields})
        except KeyboardInterrupt:
            raise Interrupted("nothing half-written is left; the same command goes on from the last step") from None
    if as_json:
        print(json.dumps(result))
    else:
        print_result(Console(), result)
    raise typer.Exit(_STATUS[result["verdict"]])


def _moved(body: dict[str, Any], as_json: bool) -> None:
    held = ", on hold" if body["hold"] else ""
    print(
        json.dumps(body)
        if as_json
        else f"{body['name']}:{body['version']} is the champion (generation {body['generation']}{held})"
    )


def _device(text: str | None) -> Any:
    if text is not None and text not in ("auto", "cuda", "cpu"):
        raise typer.BadParameter(f"expected auto, cuda or cpu, found {text!r}", param_hint="--device")
    return text


def _escaped(error: Exception) -> str:
    return " ".join(str(error).split()).replace("[", r"\[")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
