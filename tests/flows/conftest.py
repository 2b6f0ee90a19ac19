"""The command line, run in this process: the real Prefect server starts once and serves every run of the session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from serving import artifact, sealed
from serving.ledger import FILE, opened


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status and both streams."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Thaw = Callable[..., Ran]


@pytest.fixture
def thaw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Thaw:
    """`thaw("retrain", "folder", ...)`: what typing it does."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["thaw", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        status = left.value.code
        return Ran(status if isinstance(status, int) else 0, out, err)

    return run


def intact(home: Path) -> bool:
    """Nothing half-written under a home: no temporary names, and every directory with a manifest verifies."""
    left = [path for path in home.rglob("*") if path.name.startswith(".tmp-")]
    assert left == []
    for manifest in (sealed.MANIFEST, artifact.MANIFEST):
        for path in home.rglob(manifest):
            sealed.verify(path.parent, manifest)
    return True


def stored() -> list[Path]:
    """Everything in the model store, staging included."""
    return sorted(Path(os.environ["BENTOML_HOME"]).rglob("*"))


def published(home: Path) -> list[str]:
    """Names in the ledger, as `name:version`."""
    if not (home / FILE).is_file():
        return []
    with opened(home, create=False) as ledger:
        return [f"{name}:{entry.version}" for name in ledger.names() for entry in ledger.versions(name)]


def errors(text: str) -> list[str]:
    """The lines of stderr that say `error:`."""
    return [line for line in text.splitlines() if line.startswith("error:")]
