"""Whose turn it is: two retrains of one name never overlap, whoever started them and wherever.

The lock is the kernel's (and, with a ledger on PostgreSQL, the database's): it goes with the process that holds it,
so a kill leaks nothing. Prefect's concurrency slots do leak, for the length of their lease, and are not used for this.

A run that a person started waits for its turn; one that a schedule or an event started skips itself, for it would
only repeat what the other one does, and the next one comes anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext

from serving.errors import Conflict
from serving.ledger import Ledger, opened
from serving.locks import lock as lock_of

_LOOK_SECONDS = 1.0
_DUE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


class Busy(Conflict):
    """Another retrain of the name is running."""

    code = "busy"


def this_run() -> FlowRun | None:
    """The flow run this code is in, or None."""
    context = FlowRunContext.get()
    return context.flow_run if context else None


def is_automatic(run: FlowRun | None) -> bool:
    """Whether a schedule or an event started it, and no person."""
    return run is not None and (
        run.auto_scheduled or (run.created_by is not None and run.created_by.type == "AUTOMATION")
    )


def is_superseded(run: FlowRun | None) -> bool:
    """Whether a scheduled run starts so late that its schedule's next one is due as well."""
    if run is None or not run.auto_scheduled or run.run_count > 1 or run.expected_start_time is None:
        return False
    with get_client(sync_client=True) as client:
        due = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id] if run.deployment_id else []),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_DUE)),
                expected_start_time=FlowRunFilterExpectedStartTime(
                    after_=run.expected_start_time, before_=datetime.now(UTC)
                ),
            ),
            limit=10,
        )
    return any(other.id != run.id and other.auto_scheduled for other in due)


@contextmanager
def turn_of(name: str, home: Path, ledger: str | None, patient: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds the name's turn. Not `patient`: raises Busy where another one has it; else waits, and says so once."""
    lock, told = lock_of(home, f"retrain-{name}"), False
    with ExitStack() as held, opened(ledger or home) as book:
        while not _taken(held, lock, book, name):
            if not patient:
                raise Busy(f"another retrain of {name} is running: this one would only repeat it")
            if not told:
                tell(f"another retrain of {name} is running: waiting for it to end")
                told = True
            time.sleep(_LOOK_SECONDS)
        yield


def _taken(held: ExitStack, lock: FileLock, book: Ledger, name: str) -> bool:
    """Both locks, which `held` then owns, or none."""
    with ExitStack() as locks:
        try:
            locks.enter_context(lock.acquire(timeout=0))
        except Timeout:
            return False
        if not locks.enter_context(book.turn(f"thaw retrain {name}")):
            return False
        held.push(locks.pop_all())
    return True
