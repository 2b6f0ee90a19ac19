"""Long-lived processes that belong together: started, watched, started again when they end, stopped in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_STOP_SECONDS = 45.0  # a run that is told to end writes its checkpoint first
_AGAIN_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)  # before the next start, by how many ends came soon after a start
_SOON = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Component:
    """One process. `healthy` asks it over its own door; `log` is where its output goes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    healthy: Callable[[], bool]
    starts: int = 0
    log_begins: int = 0  # bytes of earlier sessions, which the log keeps
    early_ends: int = 0
    started_at: float = 0.0
    again_at: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            if not self.starts:
                self.log_begins = out.tell()
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone: we stop them in order
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process runs no threads
            )
        self.starts += 1
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def ended(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self.process.poll() if self.process else None

    def restart_if_ended(self) -> str | None:
        """Starts it again, later each time it ends soon after a start; says so in words."""
        status = self.ended()
        if status is None:
            return None
        now = time.monotonic()
        if not self.again_at:
            self.early_ends = self.early_ends + 1 if now - self.started_at < _SOON else 0
            pause = _AGAIN_SECONDS[min(self.early_ends, len(_AGAIN_SECONDS) - 1)]
            self.again_at = now + pause
            return f"{self.name} ended ({describe_status(status)}), starting it again in {pause:.0f} s: {self.log}"
        if now >= self.again_at:
            self.again_at = 0.0
            self.start()
        return None

    def stop(self) -> int | None:
        """SIGTERM, time to finish, then SIGKILL to whatever is left of its group. Its exit status."""
        if self.process is None:
            return None
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its output, this session's alone."""
        text = self.log.read_bytes()[self.log_begins :].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def describe_status(status: int) -> str:
    """An exit status in words.

    >>> describe_status(-9)
    'SIGKILL'
    """
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end_with_parent() -> None:
    """On Linux: SIGTERM when the process that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
