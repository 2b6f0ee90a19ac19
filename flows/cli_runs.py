"""The commands that make and judge models: demo, retrain, gate, verify."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows import quiet
from flows.options import STATUS, Config, DeviceOption, Interrupted, Json, Set, checked_device, err

if TYPE_CHECKING:
    from flows.parameters import Parameters


def demo(settings: Set = None, config: Config = None, as_json: Json = False) -> None:
    """The whole pipeline on 2,624 real photos of solar cells."""
    from flows.demo import demo_values, write_manifest
    from flows.parameters import read_parameters
    from serving.settings import find_home

    home = find_home()
    parameters = read_parameters(demo_values(home), config, settings or [])
    _retrain(parameters, as_json, before=lambda: write_manifest(home))


def retrain(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder with one folder per class, or a CSV manifest; or a model that was retrained before."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Model name: lowercase letters, digits, dashes.")] = None,
    config: Config = None,
    settings: Set = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was cut short.")
    ] = None,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Only if a picture or a parameter is another one since the last run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Retrain, certify, publish and promote a model on your own pictures."""
    from flows.begun import choose

    parameters, run = choose(data, name, config, settings or [], resume)
    unchanged = _unchanged(parameters) if if_changed else None
    if unchanged is None:
        _retrain(parameters, as_json, resume=run)
    else:
        _finish(unchanged, as_json)


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
    raise typer.Exit(STATUS[body["verdict"]])


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
            reference, data.expanduser().absolute(), checked_device(device) or "auto", display.progress("verify")
        )
    if as_json:
        print(json.dumps(body))
    else:
        print_replay(Console(), body)
    raise typer.Exit(0 if body["same"] else 1)


def _unchanged(parameters: Parameters) -> dict[str, Any] | None:
    """The last run's result as a skipped one, where a new run would only repeat it."""
    from flows.changes import find_unchanged_result
    from flows.result import skipped
    from serving.settings import find_home

    earlier = find_unchanged_result(find_home(), parameters)
    return None if earlier is None else skipped(earlier, {})


def _retrain(
    parameters: Parameters, as_json: bool, before: Callable[[], str | None] = lambda: None, resume: Path | None = None
) -> None:
    """Runs the flow. `before` is called once the parameters are known to be right; what it returns is told."""
    from serving.settings import find_home

    quiet.use_platform(find_home())
    err.print(f"Prefect API: {quiet.prefect_api()}", highlight=False)
    note = before()
    if note:
        err.print(note, highlight=False, soft_wrap=True)

    from flows.console import LiveDisplay
    from flows.retrain import retrain as flow
    from flows.steps import DISPLAY, RESUME

    # as Ctrl-C: otherwise a scheduler's SIGTERM would leave the ephemeral Prefect server behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # libraries print where they download from; stdout is the result's
    with LiveDisplay(err) as display, redirect_stdout(sys.stderr):
        DISPLAY.set(display)
        RESUME.set(resume)
        try:
            result = flow(**{key: getattr(parameters, key) for key in type(parameters).model_fields})
        except KeyboardInterrupt:
            raise Interrupted("nothing half-written is left; the same command goes on where it stopped") from None
    _finish(result, as_json)


def _finish(result: dict[str, Any], as_json: bool) -> None:
    """Prints the result; leaves with its verdict's exit status."""
    from flows.console import print_result

    if as_json:
        print(json.dumps(result))
    else:
        print_result(Console(), result)
    raise typer.Exit(STATUS[result["verdict"]])
