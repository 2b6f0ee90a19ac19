"""Two ways to run the command line, models for it that cost nothing, and what must hold whatever it did."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.served import model_store
from flows import cli
from serving import artifact, sealed
from serving.database import FILE
from serving.ledger import opened
from serving.store import Store
from tests.serving import tiny

NAME = "colours"


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


def thaw(*arguments: object) -> Ran:
    """What typing `thaw ...` does, in this process: the session's Prefect server is shared by all of them."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["thaw", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    status = left.value.code
    return Ran(status if isinstance(status, int) else 0, out.getvalue(), err.getvalue())


def command(*arguments: object, cwd: Path) -> Ran:
    """The real command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        timeout=280,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def bentoml_home(tmp_path: Path) -> Iterator[Path]:
    """A model store of the test's own."""
    with model_store(tmp_path / "bentoml") as place:
        yield place


def publish(home: Path, versions: int, name: str = NAME) -> None:
    """So many more versions of tiny models, each another one; none is promoted."""
    with opened(home) as ledger:
        for _ in range(versions):
            number = len(ledger.versions(name)) + 1
            source = home.parent / f"artifact-{home.name}-{name}-{number}"
            Store(home, ledger).publish(tiny.make_artifact(source, name, bias=float(number)), "test", "published")


def promote(home: Path, *versions: int, name: str = NAME) -> None:
    """Each the champion for a moment; the last one stays it."""
    with opened(home, create=False) as ledger:
        for version in versions:
            ledger.promote(name, version, who="test", why="promoted")


def settings(*values: str) -> list[str]:
    """`--set` before each."""
    return [word for value in values for word in ("--set", value)]


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
