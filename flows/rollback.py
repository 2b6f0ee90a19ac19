"""The `rollback` flow: the button for what `thaw rollback` does."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime
from pydantic import Field

from flows.parameters import NAME
from flows.release import finish_move, rollback_version


def _name() -> str:
    return f"rollback {runtime.flow_run.parameters['name']}"


@flow(name="rollback", flow_run_name=_name, validate_parameters=True, persist_result=False, timeout_seconds=3600)
def rollback(
    name: Annotated[str, Field(pattern=NAME)],
    who: Annotated[str, Field(min_length=2, max_length=80)],
    why: Annotated[str, Field(min_length=3, max_length=500)],
    to: Annotated[int | None, Field(ge=1)] = None,
    wait: Annotated[float, Field(ge=0, le=3000)] = 60,
) -> Any:
    """Back to the previous champion, and waits until the running servers answer with it.

    Holds automatic promotion until a version is promoted with `release_hold`; retrains go on.

    Args:
        name: model name, e.g. solar-cells
        who: your name; it is kept in the ledger
        why: reason; it is kept in the ledger
        to: version; default: the champion before this one
        wait: seconds the running servers may take to follow
    """
    return finish_move(rollback_version(name, to, why, who), "rollback", wait, get_run_logger().info)
