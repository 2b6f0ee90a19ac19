"""What Thaw tells the orchestrator, so that automations can react: events about a model.

An event is news, not a step: one that cannot be sent is lost, and nothing fails or waits for long because of it.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.events import Event

_SECONDS = 5.0  # a command waits no longer for an orchestrator that does not answer
_log = logging.getLogger(__name__)


def promoted(name: str, version: int, verdict: str, reason: str, run_id: str | None = None) -> bool:
    """A version became the champion. As all here: False if nobody could be told; never raises."""
    return _model("thaw.model.promoted", name, version, verdict, reason, run_id=run_id)


def rejected(name: str, version: int | None, verdict: str, reason: str, run_id: str | None = None) -> bool:
    """A version will not be the champion: REJECTED, INCONCLUSIVE, or refused by a person. None: never published."""
    return _model("thaw.model.rejected", name, version, verdict, reason, run_id=run_id)


def rolled_back(name: str, version: int, verdict: str, reason: str, who: str) -> bool:
    """An earlier version is the champion again."""
    return _model("thaw.model.rolled_back", name, version, verdict, reason, who=who)


def approval_asked(name: str, version: int, verdict: str, reason: str, run_id: str | None = None) -> bool:
    """A person must decide about a version."""
    return _model("thaw.approval.asked", name, version, verdict, reason, run_id=run_id)


def _model(event: str, name: str, version: int | None, verdict: str, reason: str, **more: str | None) -> bool:
    payload = {"name": name, "version": version, "verdict": verdict, "reason": reason, **more}
    return _tell(event, f"thaw.model.{name}", name, payload)


def _tell(event: str, resource_id: str, name: str, payload: dict[str, Any]) -> bool:
    resource = {"prefect.resource.id": resource_id, "prefect.resource.name": name}
    try:
        from prefect.context import FlowRunContext, TaskRunContext
        from prefect.events import Event, emit_event
        from prefect.settings import get_current_settings

        if FlowRunContext.get() or TaskRunContext.get():
            # the run's own event queue, which names the run in the event and is emptied before the process ends
            return emit_event(event, resource, payload=payload) is not None
        # Elsewhere that queue would start a server where none is configured, and wait for one that is down at exit
        return get_current_settings().api.url is not None and _post(
            Event(event=event, resource=resource, payload=payload)
        )
    except Exception as error:  # whatever the orchestrator's client may raise: what was to be told has been done
        _log.warning("event %s was not sent: %s", event, type(error).__name__)
        return False


def _post(event: Event) -> bool:
    """Sends an event now, in a thread: a name server that does not answer knows no timeout."""
    from prefect.client.orchestration import get_client

    body = [event.model_dump(mode="json")]
    sent = threading.Event()

    def send() -> None:
        try:
            with get_client(httpx_settings={"timeout": _SECONDS}, sync_client=True) as client:
                client.request("POST", "/events", json=body)
            sent.set()
        except Exception as error:
            _log.warning("event %s was not sent: %s", event.event, type(error).__name__)

    # a thread begins without the settings that this one may have been given, and would start a server of its own
    thread = threading.Thread(target=copy_context().run, args=(send,), name="thaw-event", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return sent.is_set()
