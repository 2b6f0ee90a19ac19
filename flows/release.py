"""Moving the champion pointer by hand, and waiting until the running servers answer with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from flows import events
from serving import servers
from serving.errors import BadInput, ThawError
from serving.ledger import opened
from serving.servers import Server
from serving.settings import existing_home, load_settings
from serving.store import Store, parse_reference, whoami

Tell = Callable[[str], None]
_LOOK_SECONDS = 0.2


class ServersBehind(ThawError):
    """The champion moved, but a running server does not answer with it."""

    code = "servers_behind"


def promote_version(reference: str, override: str | None, release_hold: bool, who: str | None = None) -> dict[str, Any]:
    """Makes NAME:VERSION champion after its files were verified. `who`: default, the account this runs under.

    `override`: the reason for a version that did not pass.
    """
    home = existing_home()
    name, version = parse_reference(reference)
    if override is not None and not override.strip():
        raise BadInput("expected a reason for --override, found none: it is kept in the history")
    if version is None:
        raise BadInput(f"expected NAME:VERSION, found {reference!r}: see `thaw show {name}`")
    with opened(_ledger() or home, create=False) as ledger:
        contents = Store(home, ledger).open(name, version).contents
        # the champion itself may be promoted again, to end its hold
        free = override is not None or ledger.champion(name).version == version
        champion = ledger.promote(
            name,
            version,
            who=who or whoami(),
            why=f"override: {override}" if override else "thaw promote",
            expected_generation=None if free else contents.champion_generation,
            override=override is not None,
            release_hold=release_hold,
        )
    return asdict(champion)


def rollback_version(name: str, to: int | None, why: str, who: str | None = None) -> dict[str, Any]:
    """Back to an earlier champion, whose files are verified first; the name is on hold afterwards."""
    home = existing_home()
    with opened(_ledger() or home, create=False) as ledger:
        version = ledger.rollback_target(name, to)
        Store(home, ledger).open(name, version)
        champion = ledger.rollback(name, to=version, who=who or whoami(), why=why or "thaw rollback")
    return asdict(champion)


def _ledger() -> str | None:
    return load_settings().ledger


def tell_move(body: Mapping[str, Any], kind: Literal["promote", "rollback"]) -> None:
    """The event of a moved champion, as its own history words it."""
    with opened(_ledger() or existing_home(), create=False) as ledger:
        verdict = ledger.version(body["name"], body["version"]).verdict
        moved = next(event for event in reversed(ledger.history(body["name"])) if event.kind == kind)
    if kind == "promote":
        events.promoted(body["name"], body["version"], verdict, f"{moved.who}: {moved.why}")
    else:
        events.rolled_back(body["name"], body["version"], verdict, moved.why, moved.who)


def finish_move(
    body: dict[str, Any], kind: Literal["promote", "rollback"], seconds: float, tell: Tell
) -> dict[str, Any]:
    """What a flow does once the pointer has moved: the event, then the servers. Raises ServersBehind."""
    tell_move(body, kind)
    label = f"{body['name']}:{body['version']}"
    running = wait_for_servers(body, seconds, lambda text: tell(f"{text} {label}"))
    late = [server for server in running if not answers(server, body)]
    if late and seconds:
        told = "; ".join(f"{server.place}: {server.error or 'no answer yet'}" for server in late)
        raise ServersBehind(f"{label} is the champion, but {len(late)} of {len(running)} servers do not answer: {told}")
    return body | {"servers": [asdict(server) for server in running]}


def wait_for_servers(body: Mapping[str, Any], seconds: float, tell: Tell) -> tuple[Server, ...]:
    """The running servers of a name, once all answer with this champion or a later one, or after that many seconds.

    `body`: the champion's name, version and generation. `tell` hears each change, e.g. "1/2 servers now answer".
    Which of them do: `answers`.
    """
    deadline = time.monotonic() + seconds
    told = ""
    with opened(_ledger() or existing_home(), create=False) as ledger:
        while True:
            running = servers.running(ledger, body["name"])
            ready = sum(answers(server, body) for server in running)
            text = f"{ready}/{len(running)} servers now answer"
            if running and text != told:
                tell(text)
                told = text
            if ready == len(running) or time.monotonic() >= deadline:
                return running
            time.sleep(_LOOK_SECONDS)


def answers(server: Server, body: Mapping[str, Any]) -> bool:
    """Whether it answers with this champion, or a later one."""
    ours = (server.generation, server.version) == (body["generation"], body["version"])
    return ours or server.generation > body["generation"]
