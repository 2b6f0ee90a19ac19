"""`thaw show`: what is served and by whom, what could be, and what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving import servers
from serving.ledger import Ledger, opened
from serving.settings import existing_home, load_settings
from serving.store import Store, parse_reference, resolve_name


def describe_models(reference: str | None) -> dict[str, Any]:
    """All models, one (NAME), or one version with its artifact's contents (NAME:VERSION), as JSON values."""
    home = existing_home()
    url = load_settings().ledger
    with opened(url or home, create=False) as ledger:
        if reference is None:
            return {"models": [_model(ledger, name) for name in ledger.names()]}
        name, version = parse_reference(reference)
        body = _model(ledger, resolve_name(ledger, name))
        if version is not None:
            contents = Store(home, ledger).open(name, version).contents
            body["artifact"] = contents.model_dump(mode="json", by_alias=True)
        return {"models": [body]}


def _model(ledger: Ledger, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "champion": asdict(ledger.champion(name)),
        "servers": [asdict(server) for server in servers.running(ledger, name)],
        "versions": [asdict(entry) for entry in ledger.versions(name)],
        "history": [asdict(event) for event in ledger.history(name)],
    }


def print_models(console: Console, body: Mapping[str, Any]) -> None:
    """One screen."""
    for model in body["models"]:
        champion = model["champion"]
        version = champion["version"]
        state = (
            f"champion {model['name']}:{version}, generation {champion['generation']}" if version else "no champion yet"
        )
        hold = " [bold yellow](on hold: automatic promotion is off)[/]" if champion["hold"] else ""
        console.print(f"[bold]{model['name']}[/]: {state}{hold}", highlight=False)
        _print_servers(console, model)
        versions = [
            ("*" if entry["version"] == version else "", entry["version"], entry["verdict"], entry["published_at"])
            for entry in model["versions"][:10]
        ]
        console.print(_table(("", "version", "verdict", "published"), versions))
        columns = ("at", "kind", "version", "who", "why")
        console.print(_table(columns, [tuple(event[key] for key in columns) for event in model["history"][-10:]]))
        if "artifact" in model:
            console.print_json(data=model["artifact"])


def _print_servers(console: Console, model: Mapping[str, Any]) -> None:
    """Each running server with what it answers with; in red where that is not the champion."""
    if not model["servers"]:
        console.print("no server is running", highlight=False)
        return
    table = Table("server", "answers", "provider", "seen", "error", box=None, pad_edge=False)
    for server in model["servers"]:
        current = server["generation"] >= model["champion"]["generation"]
        answered = f"version {server['version']}" if server["version"] else "nothing yet"
        seen = f"{max(0, time.time() - server['seen_at']):.0f} s ago"
        cells = (server["place"], answered, server["provider"] or "-", seen, server["error"] or "")
        table.add_row(*map(escape, cells), style=None if current else "red")
    console.print(table)


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table
