"""A run's directory and its name in the orchestrator.

`runs/<time>-<mark>/`: the mark is the flow run's, so a run that is suspended or retried finds its directory again when
it goes on in another process.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from prefect import runtime
from prefect.client.schemas.objects import FlowRun

from flows.steps import RESUME

# hex digits from the end of a flow run's id, which is random there; the beginning of a scheduled run's is the time
_MARK, _SHORT_MARK = 12, 6


def flow_run_name() -> str:
    """Of a run of `retrain`: what, which, when.

    Prefect calls it without arguments, inside the run.
    """
    mark = str(runtime.flow_run.id)[-_SHORT_MARK:]
    return f"retrain {runtime.flow_run.parameters['name']} {datetime.now(UTC):%Y-%m-%d} {mark}"


def find_run(home: Path, flow_run: FlowRun | None) -> Path:
    """The directory this run goes on in, or the one a new run will use; nothing is created."""
    chosen = RESUME.get()
    if chosen is not None:
        return chosen
    mark = (flow_run.id if flow_run else uuid.uuid4()).hex[-_MARK:]
    earlier = sorted((home / "runs").glob(f"*-{mark}"))
    return earlier[-1] if earlier else home / "runs" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{mark}"
