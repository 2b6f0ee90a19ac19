"""Whether anything changed since a model's last run, before a new one is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.begun import read_run
from flows.parameters import Parameters
from serving.errors import BadInput
from serving.ledger import opened
from serving.settings import load_settings
from tasks.audit.repair import keys_of
from tasks.data.prepare import find_prepared
from tasks.model.backbone import describe
from tasks.release.unchanged import RESULT


def find_unchanged_result(home: Path, parameters: Parameters) -> dict[str, Any] | None:
    """The result of the newest run of the name, if it had these parameters and no picture changed since; or None.

    None as well where each file is to be read again: that is what the run is for.
    """
    if parameters.data.verify:
        return None
    dataset = find_prepared(parameters.name, home, parameters.data, describe(parameters.model))
    for kept in sorted((home / "runs").glob(f"*/{RESULT}"), reverse=True):
        try:
            body: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            begun = read_run(kept.parent)
        except (ValueError, BadInput):  # one damaged old run must not stop every new one
            continue
        if begun.name == parameters.name:
            same = dataset is not None and body.get("data", {}).get("fingerprint") in keys_of(dataset)
            return _as_it_is_now(body, home) if same and begun == parameters else None
    return None


def _as_it_is_now(body: dict[str, Any], home: Path) -> dict[str, Any]:
    """The result, `promoted` being whether its version is the champion today."""
    version = body.get("version")
    if version is None:
        return body | {"promoted": False}
    with opened(load_settings().ledger or home, create=False) as book:
        return body | {"promoted": book.champion(body["name"]).version == version}
