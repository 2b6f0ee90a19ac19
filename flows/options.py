"""What the commands of `thaw` have in common: options, exit statuses, how they speak to a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from serving.errors import ThawError

err = Console(stderr=True)
STATUS = {"PASSED": 0, "REJECTED": 3, "INCONCLUSIVE": 4}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any parameter, e.g. finetune.epochs=8; may be repeated.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with the flow's parameters.")]
Name = Annotated[str | None, typer.Option("--name", help="Model name; may be left out when there is only one.")]
Wait = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds the running servers may take to answer with it; 0: do not wait.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cuda or cpu.")]


class Interrupted(ThawError):
    """Ctrl-C or SIGTERM."""

    code = "interrupted"
    exit_status = 1


def checked_device(text: str | None) -> Any:
    if text is not None and text not in ("auto", "cuda", "cpu"):
        raise typer.BadParameter(f"expected auto, cuda or cpu, found {text!r}", param_hint="--device")
    return text


def escaped(error: Exception | str) -> str:
    return escape(" ".join(str(error).split()))
