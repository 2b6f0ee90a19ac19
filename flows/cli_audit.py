"""The command that judges pictures: audit."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.options import Config, Json, Set, err


def audit(
    data: Annotated[Path | None, typer.Argument(help="Folder with one folder per class, or a CSV manifest.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Model name; default: the folder's.")] = None,
    config: Config = None,
    settings: Set = None,
    html: Annotated[Path | None, typer.Option("--html", help="Page to write, with the pictures in question.")] = None,
    suspects: Annotated[
        Path | None, typer.Option("--suspects", help="CSV to write: edit its column action, then --apply it.")
    ] = None,
    apply: Annotated[Path | None, typer.Option("--apply", help="Edited suspects: only writes --out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Manifest to write with --apply: DATA for retrain.")] = None,
    as_json: Json = False,
) -> None:
    """What is wrong with these pictures, and what could be proved with them. Exit status 3 if something blocks."""
    from flows.begun import choose
    from flows.console import LiveDisplay
    from flows.init import name_of

    if (apply is None) != (out is None):
        raise typer.BadParameter("expected both or neither of --apply and --out", param_hint="--apply")
    if name is None and config is None and data is not None:
        name = name_of(data.expanduser().absolute())
    parameters, _ = choose(None if data is None else str(data), name, config, settings or [], None)

    from flows.audit import BLOCKED, Wanted, apply_suspects, audit_pictures, print_audit

    if apply is not None and out is not None:
        body = apply_suspects(parameters, apply, out)
        left = "{manifest}: {pictures} pictures, {dropped} dropped, {relabelled} relabelled".format(**body)
        left += f", {body['refused']} left out that cannot be read" if body["refused"] else ""
        print(json.dumps(body) if as_json else left)
        return
    with LiveDisplay(err) as display, redirect_stdout(sys.stderr):
        display.started("audit")
        body = audit_pictures(parameters, Wanted(html, suspects), display)
    if as_json:
        print(json.dumps(body))
    else:
        print_audit(Console(), body)
    raise typer.Exit(BLOCKED if body["blocked"] else 0)
