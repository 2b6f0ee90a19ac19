"""A PostgreSQL server of a drill's own: a new cluster in a temporary directory, on a port nobody else has."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Where `initdb` and `pg_ctl` are; None on a machine without PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of its database. Raises SystemExit where PostgreSQL is not installed."""
    programs = binaries()
    if programs is None:
        raise SystemExit("expected PostgreSQL's initdb, found none: install the system's package `postgresql`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="thaw-postgres-") as folder:
        place = Path(folder, "data")
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        _as_owner([programs / "initdb", "-D", place, "-U", "thaw", "--auth=trust", "-E", "UTF8"])
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c max_connections=200"
        _as_owner([programs / "pg_ctl", "-D", place, "-o", options, "-l", Path(folder, "log"), "-w", "start"])
        try:
            yield f"postgresql://thaw@127.0.0.1:{port}/postgres"
        finally:
            _as_owner([programs / "pg_ctl", "-D", place, "-m", "immediate", "-w", "stop"])


def _as_owner(command: list[Path | str]) -> None:
    """PostgreSQL refuses to run as root."""
    before = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*before, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd="/")
