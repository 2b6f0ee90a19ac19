"""`thaw gc`: takes away what nobody can need again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from serving import servers
from serving.ledger import Ledger, opened
from serving.settings import existing_home, load_settings
from serving.store import Store, whoami

CHAMPIONS_KEPT = 3
CHECKPOINTS = "checkpoints"  # under the home, by configuration: tasks/training/checkpoint.py
CHECKPOINT_DAYS = 7  # since the last one was written
ASIDE = ".tmp-audit-"  # under the home: flows/audit.py


def collect(keep: int, dry_run: bool) -> dict[str, Any]:
    """Removes stored versions, and what interrupted publishes and trainings left; with `dry_run` only names them.

    Of each name these stay: the newest `keep` versions, the last three champions, and what running servers answer with.
    """
    home = existing_home()
    with opened(load_settings().ledger or home, create=False) as ledger:
        store = Store(home, ledger)
        found: dict[str, Any] = {"dry_run": dry_run, "versions": [], "leftovers": []}
        for name in sorted({*ledger.names(), *store.names()}):
            for version in _collectable(ledger, store, name, keep):
                if not dry_run:
                    store.remove(name, version, whoami(), f"thaw gc --keep {keep}")
                found["versions"].append(f"{name}:{version}")
            places = store.leftovers(name) if dry_run else store.remove_leftovers(name)
            found["leftovers"] += [str(place) for place in places]
    for place in _abandoned(home):
        if not dry_run:
            shutil.rmtree(place, ignore_errors=True)
        found["leftovers"].append(str(place))
    return found


def _abandoned(home: Path) -> list[Path]:
    """Checkpoints of trainings, and pictures of audits, that were interrupted and that nobody went on with."""
    oldest = time.time() - CHECKPOINT_DAYS * 86_400
    places = [*sorted((home / CHECKPOINTS).glob("*")), *sorted(home.glob(f"{ASIDE}*"))]
    return [place for place in places if place.stat().st_mtime < oldest]


def _collectable(ledger: Ledger, store: Store, name: str, keep: int) -> list[int]:
    """Oldest first."""
    stored = [entry.version for entry in ledger.versions(name) if store.is_stored(entry)]
    needed = {*stored[:keep], *ledger.last_champions(name, CHAMPIONS_KEPT)}
    needed |= {server.version for server in servers.running(ledger, name) if server.version is not None}
    return sorted(set(stored) - needed)


def print_collected(console: Console, body: Mapping[str, Any]) -> None:
    """What was, or would be, removed."""
    verb = "would remove" if body["dry_run"] else "removed"
    for what in (*body["versions"], *body["leftovers"]):
        console.print(f"{verb} {what}", highlight=False, soft_wrap=True)
    if not (body["versions"] or body["leftovers"]):
        console.print("nothing to remove")
