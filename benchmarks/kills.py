"""Counts the calls that change what is on disk, and kills the process at the N-th: before it, after it, or halfway.

Used in forked children only: nothing is ever put back.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect


def kill_points(work: Callable[[], object], record: Path) -> list[str]:
    """Every point at which `work` could be killed, by name; it runs to its end, in a child."""
    status = _in_child(work, None, record)
    assert status == 0, f"expected the work to end well without a kill, found status {status}"
    return record.read_text().split("\n")[:-1]


def kill_at(point: int, work: Callable[[], object], record: Path) -> None:
    """Runs `work` in a child that is killed at the point of that number, from 0."""
    status = _in_child(work, point, record)
    assert os.WIFSIGNALED(status), f"expected a kill at point {point}, found status {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL


def _in_child(work: Callable[[], object], fatal: int | None, record: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _watch(fatal, record)
            work()
            os._exit(0)  # no clean-up of the parent's in the child
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def _watch(fatal: int | None, record: Path) -> None:
    """From here on, this process dies at point `fatal`; each point is written down as it is passed."""
    passed = 0
    log = record.open("w")

    def point(name: str) -> None:
        nonlocal passed
        if passed == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1
        log.write(f"{name}\n")
        log.flush()

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            point(f"before {name}")
            result = function(*arguments, **keywords)
            point(f"after {name}")
            return result

        return watched

    copyfile = shutil.copyfile

    def copy_in_halves(source: Any, target: Any, **keywords: Any) -> Any:
        body = Path(source).read_bytes()
        Path(target).write_bytes(body[: len(body) // 2])
        point("halfway through copyfile")
        return copyfile(source, target, **keywords)

    os.fsync = around("fsync", os.fsync)
    os.rename = around("rename", os.rename)  # Path.rename calls it
    os.mkdir = around("mkdir", os.mkdir)  # so does Path.mkdir
    shutil.copyfile = around("copyfile", copy_in_halves)
    shutil.rmtree = around("rmtree", shutil.rmtree)  # type: ignore[assignment]
    DefaultDialect.do_commit = around("commit", DefaultDialect.do_commit)  # type: ignore[method-assign]
    sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: point("before statement"))
    sa.event.listen(sa.Engine, "after_cursor_execute", lambda *_: point("after statement"))
