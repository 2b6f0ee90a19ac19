"""Where a run's progress is shown. The command line has one of its own, in flows/console.py."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.progress import Progress, silent

_EVERY = 5.0  # seconds between two calls of the API
_LINES = ("epoch ", "learning rate ", "weights ", "warning: ")  # texts of a step that are worth a line of their own


def is_line(text: str) -> bool:
    return text.startswith(_LINES)


class Display:
    """Shows nothing."""

    def started(self, step: str) -> None: ...

    def progress(self, step: str) -> Progress:  # noqa: ARG002 - a display that shows nothing
        return silent

    def finished(self, step: str, seconds: float) -> None: ...


class RunDisplay(Display):
    """A deployment's run in the UI: a progress artifact for each step that takes its time, a log line an epoch."""

    def progress(self, step: str) -> Progress:
        return _StepProgress(step)


class _StepProgress:
    """The callback of one step, called inside its task run. What the server cannot take now is left out."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._artifact: UUID | None = None
        self._latest = time.monotonic()  # a step that is done within the first interval shows nothing

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if is_line(text):
            get_run_logger().info(text)
        over = done >= total and self._artifact is not None
        if time.monotonic() - self._latest < _EVERY and not over:
            return
        with suppress(httpx.HTTPError, OSError):
            self._show(100.0 * done / max(total, 1), text)
        self._latest = time.monotonic()

    def _show(self, percent: float, text: str) -> None:
        if self._artifact is None:
            key = self._step.replace("_", "-")
            created: Any = create_progress_artifact(percent, key=f"progress-{key}", description=f"{self._step}: {text}")
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, progress=percent, description=f"{self._step}: {text}")
