"""Locks between processes of one home: the kernel's, so that a process that is killed leaves none behind.

HOME/locks/publish-NAME.lock   the name's versions in the model store
HOME/locks/data-NAME.lock      its split table
HOME/locks/retrain-NAME.lock   whose turn it is to retrain it
HOME/locks/up.lock             the one `thaw up`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from serving.errors import Conflict


def lock(home: Path, what: str) -> FileLock:
    """Not held yet. `what` is the lock's name, e.g. `data-solar-cells`."""
    place = home / "locks"
    place.mkdir(parents=True, exist_ok=True)
    return FileLock(place / f"{what}.lock")


@contextmanager
def locked(home: Path, what: str, seconds: float) -> Iterator[None]:
    """Holds the lock, after at most so many seconds. Raises Conflict: another process still has it."""
    held = lock(home, what)
    try:
        held.acquire(timeout=seconds)
    except Timeout:
        raise Conflict(
            f"expected to get the lock {held.lock_file} within {seconds:.0f} s, found another process holding it: "
            "wait for it to end, or end it, and start again"
        ) from None
    try:
        yield
    finally:
        held.release()
