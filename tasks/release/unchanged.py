"""Whether a retrain would only repeat what an earlier run, or the run itself, already decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.ledger import opened

RESULT = "result.json"


def find_unchanged(name: str, inputs: str, run: Path, home: Path, ledger: str | None) -> dict[str, Any] | None:
    """The result of another run with these inputs that was published and met the champion that still stands; or None.

    `inputs` is a digest of everything the outcome depends on but the champion. `promoted` is told as it is now.
    """
    with opened(ledger or home) as book:
        champion = book.champion(name)
        published = {entry.version for entry in book.versions(name)}
    for path in sorted(run.parent.glob(f"*/{RESULT}"), reverse=True):
        if path.parent == run:  # begun before, and suspended or killed since: it goes on
            continue
        try:
            result: dict[str, Any] = json.loads(path.read_text())
        except ValueError:  # one damaged old run must not stop every new one
            continue
        if not {"name", "inputs", "version", "champion"} <= result.keys():
            continue
        same = result["name"] == name and result["inputs"] == inputs and result["version"] in published
        still = champion.version == result["version"] or champion.generation == result["champion"]["generation"]
        if same and still:
            return result | {"promoted": champion.version == result["version"]}
    return None


def find_ended(name: str, run: Path, home: Path, ledger: str | None) -> dict[str, Any] | None:
    """The result of this run if it ended before; None if it was cut short, or waits for approval.

    A run that ended is not gone on with: what it published may have been replaced by a better champion since.
    `promoted` is told as it is now.
    """
    kept = run / RESULT
    if not kept.is_file():
        return None
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    if result.get("waiting"):
        return None
    with opened(ledger or home) as book:
        champion = book.champion(name).version
        published = {entry.version for entry in book.versions(name)}
    version = result.get("version")
    if version is None:  # ended by gate.stop_early
        return result
    return result | {"promoted": champion == version} if version in published else None
