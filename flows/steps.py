"""The plain steps as Prefect tasks: every policy in one place.

Results are not persisted by Prefect: the directories that the steps name are the results, and a run that is resumed, or
run again, uses what is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows.displays import Display
from flows.private import StepFailed, discreet
from tasks.audit.audit import audit
from tasks.certification.certify import certify
from tasks.data.prepare import prepare
from tasks.evaluation.validate import validate
from tasks.export.export import export
from tasks.release.release import promote, publish
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head

_HOUR = 3600


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, StepFailed) and state.data.transient


def _step(function: Callable[..., Any], timeout_seconds: int, retries: int = 0) -> Task[..., Any]:
    policy = task(
        name=function.__name__,
        cache_policy=NO_CACHE,
        persist_result=False,
        timeout_seconds=timeout_seconds,
        retries=retries,
        retry_delay_seconds=[5.0, 30.0, 120.0][:retries],
        retry_condition_fn=_is_transient,
    )
    return policy(discreet(function))


# the steps that compute are deterministic: a failure would only repeat. Past the time-outs something hangs
PREPARE = _step(prepare, 24 * _HOUR)
EMBED = _step(embed, 24 * _HOUR)
AUDIT = _step(audit, 6 * _HOUR)
TRAIN_HEAD = _step(train_head, 6 * _HOUR)
FINETUNE = _step(finetune, 7 * 24 * _HOUR)
VALIDATE = _step(validate, 6 * _HOUR)
EXPORT = _step(export, _HOUR)
CERTIFY = _step(certify, 24 * _HOUR)
# these talk to a database, which may be restarted, and are idempotent
PUBLISH = _step(publish, _HOUR, retries=3)
PROMOTE = _step(promote, _HOUR, retries=3)


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


# what a caller in this process wants of the next run, which is not a parameter of the flow
DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)
RESUME: ContextVar[Path | None] = ContextVar("resume", default=None)  # the directory of the run to go on with
