"""How a run ends in the orchestrator: a state that says what was decided, and the event that tells others.

A run that decides against a model has done its work: `Rejected`, `Inconclusive` and `Skipped` are final states of type
COMPLETED, so that neither retries nor "failed" automations take them for a crash.
"""

from __future__ import annotations

from typing import Any

from prefect.states import Completed

_NAMES = {"PASSED": "Completed", "REJECTED": "Rejected", "INCONCLUSIVE": "Inconclusive"}


def final_state(result: dict[str, Any]) -> Any:
    """The state of a finished run; its message is the reason with the failing lines, its data the result."""
    name = "Skipped" if result["skipped"] else _NAMES[result["verdict"]]
    return Completed(name=name, message=result["reason"], data=result)


def not_started(name: str, reason: str) -> Any:
    """The state of a run that left its turn to another one: there is no result of its own."""
    body = {"name": name, "version": None, "verdict": None, "promoted": False, "skipped": True, "reason": reason}
    return Completed(name="Skipped", message=reason, data=body)
