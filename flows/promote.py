"""The `promote` flow: the button for what `thaw promote` does."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime
from pydantic import Field

from flows.release import finish_move, promote_version

REFERENCE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[1-9][0-9]{0,8}$"


def _name() -> str:
    return f"promote {runtime.flow_run.parameters['version']}"


@flow(name="promote", flow_run_name=_name, validate_parameters=True, persist_result=False, timeout_seconds=3600)
def promote(
    version: Annotated[str, Field(pattern=REFERENCE)],
    who: Annotated[str, Field(min_length=2, max_length=80)],
    override: str | None = None,
    release_hold: bool = False,
    wait: Annotated[float, Field(ge=0, le=3000)] = 60,
) -> Any:
    """Makes a published version the champion, and waits until the running servers answer with it.

    Fails, and changes nothing, if the version did not pass, the name is on hold, or another champion came meanwhile.

    Args:
        version: NAME:VERSION, e.g. solar-cells:3
        who: your name; it is kept in the ledger
        override: reason to promote a version that did not pass, or a held name; kept in the ledger
        release_hold: end the hold that a rollback began
        wait: seconds the running servers may take to follow
    """
    return finish_move(promote_version(version, override, release_hold, who), "promote", wait, get_run_logger().info)
