"""The plain steps as Prefect tasks: every policy in one place.

No step is retried: each is deterministic, so a failure would only repeat; what a run left behind is used by the
next one. Results are not persisted by Prefect: the directories that the steps name are the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from tasks.certification.certify import certify
from tasks.data.prepare import prepare
from tasks.evaluation.validate import validate
from tasks.export.export import export
from tasks.progress import Progress, silent
from tasks.release.release import promote, publish
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head

_HOUR = 3600


def _step(function: Callable[..., Any], timeout_seconds: int) -> Task[..., Any]:
    policy = task(name=function.__name__, cache_policy=NO_CACHE, persist_result=False, timeout_seconds=timeout_seconds)
    return policy(function)


PREPARE = _step(prepare, 24 * _HOUR)
EMBED = _step(embed, 24 * _HOUR)
TRAIN_HEAD = _step(train_head, 6 * _HOUR)
FINETUNE = _step(finetune, 7 * 24 * _HOUR)
VALIDATE = _step(validate, 6 * _HOUR)
EXPORT = _step(export, _HOUR)
CERTIFY = _step(certify, 24 * _HOUR)
PUBLISH = _step(publish, _HOUR)
PROMOTE = _step(promote, _HOUR)


class Display:
    """Where a run's progress is shown; the command line draws it, a deployment's run says nothing here."""

    def started(self, step: str) -> None: ...

    def progress(self, step: str) -> Progress:  # noqa: ARG002 - a display that shows nothing
        return silent

    def finished(self, step: str, seconds: float) -> None: ...


class Clock:
    """Seconds of each step, told to the display."""

    def __init__(self, display: Display) -> None:
        self.seconds: dict[str, float] = {}
        self._display = display

    def run(self, step: Task[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls a step with its progress callback and adds to its seconds."""
        self._display.started(step.name)
        start = time.perf_counter()
        result = step(*arguments, progress=self._display.progress(step.name), **options)
        spent = time.perf_counter() - start
        self.seconds[step.name] = round(self.seconds.get(step.name, 0.0) + spent, 3)
        self._display.finished(step.name, spent)
        return result


DISPLAY: ContextVar[Display] = ContextVar("display", default=Display())  # noqa: B039 - it holds no state
