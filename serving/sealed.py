"""Directories that are complete or absent.

Every value that steps hand over is such a directory: written under a temporary name beside its place,
flushed to disk, listed in a manifest with the sha256 of each file, then renamed. What a kill leaves is
a `.tmp-*` directory that nobody reads and the next writer of that place removes: one on the same machine
at once, as it sees that the process is gone; one elsewhere, or after a restart, when it is a week old.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.errors import ArtifactError

MANIFEST = "manifest.json"
SCHEMA = 1
_TEMPORARY = ".tmp-"
_OLD_SECONDS = 7 * 86400.0  # far more than any writer takes between two files
_writing: set[str] = set()  # names of the temporary directories that threads of this process are filling


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """Hex sha256 of a JSON value in canonical form: equal values, equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a single file atomically and durably: readers see the old text or the new."""
    data = text.encode()  # before anything is opened: text from file names may not be UTF-8
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file or directory entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def sealing(place: Path, about: Mapping[str, Any], manifest: str = MANIFEST) -> Iterator[Path]:
    """Yields an empty directory to fill; on a clean exit it becomes `place`, complete.

    Writes `manifest` last: `{"schema", **about, "files": {relative path: sha256}}`. `about` is read at
    the end, so the body may still fill it. If `place` exists already (another process was
    faster; equal keys mean equal content) the new copy is dropped. On an exception nothing is left.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place)
    temporary = place.with_name(f"{_TEMPORARY}{place.name}-{uuid.uuid4().hex[:8]}-{_machine()}-{os.getpid()}")
    _writing.add(temporary.name)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        digests = {p.relative_to(temporary).as_posix(): sha256_of(p) for p in files}
        body = {"schema": SCHEMA, **about, "files": digests}
        text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / manifest).write_text(text, encoding="utf-8")
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        _rename_unless_there(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _writing.discard(temporary.name)


def about(place: Path, manifest: str = MANIFEST) -> dict[str, Any] | None:
    """The manifest of a complete directory, or None where there is none. Does not read the files."""
    path = place / manifest
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error}): remove {place} and run again") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        found = body.get("schema") if isinstance(body, dict) else type(body).__name__
        raise ArtifactError(f"{path}: expected schema {SCHEMA}, found {found}: written by another version of Thaw")
    return body


def verify(place: Path, manifest: str = MANIFEST) -> dict[str, Any]:
    """The manifest, after checking that every file it lists is there with that sha256."""
    body = about(place, manifest)
    if body is None:
        raise ArtifactError(f"expected {manifest} in {place}, found none: the directory is incomplete")
    files = body.get("files")
    if not isinstance(files, dict):
        raise ArtifactError(f"{place / manifest}: expected its files with their sha256, found none: restore it")
    for name, expected in files.items():
        path = place / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{place / manifest}: expected files inside the directory, found {name!r}")
        found = sha256_of(path) if path.is_file() else "no such file"
        if found != expected:
            wanted = str(expected)[:12]
            raise ArtifactError(f"{path}: expected sha256 {wanted}, found {found[:12]}: restore or retrain it")
    return body


def reusable(place: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a directory that was made of the same before, verified; None where there is none yet.

    Raises ArtifactError: it was made of something else, or altered.
    """
    if not place.exists():
        return None
    body = verify(place)
    if body.get("key") != key:
        raise ArtifactError(
            f"{place}: expected key {key}, found {body.get('key', 'none')}: this run was made with another "
            "configuration or other pictures; resume it with its own, or start a new run"
        )
    return body


def _rename_unless_there(temporary: Path, place: Path) -> None:
    if place.exists():
        return
    try:
        temporary.rename(place)
    except OSError:
        if not place.exists():  # else: another writer was faster by less than the check above sees
            raise
    sync(place.parent)


def _remove_leftovers(place: Path) -> None:
    """Removes temporary copies of `place` whose writer is gone."""
    for leftover in place.parent.glob(f"{_TEMPORARY}{glob.escape(place.name)}-*"):
        *_, machine, pid = leftover.name.split("-")
        if leftover.name in _writing or not pid.isdigit():
            continue
        if not _alive(int(pid)) if machine == _machine() else _is_old(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _machine() -> str:
    """Where a process's number means that process: this start of this machine and, of containers, this one; 8 digits.

    Several may share a home, and each would take the others' work for what a kill left.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text()
        return digest_of([start, str(Path("/proc/self/ns/pid").readlink())])[:8]
    except OSError:  # not Linux
        return digest_of(platform.node())[:8]


def _is_old(directory: Path) -> bool:
    try:
        newest = max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))
    except OSError:  # its writer is at work, or was faster
        return False
    return newest < time.time() - _OLD_SECONDS


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()  # a container gives every run the same number; our own threads are in _writing
