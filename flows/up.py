"""`thaw up`: Prefect server, work pool, deployments, automations, worker and prediction service on one machine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from filelock import Timeout

from flows import quiet
from flows.platform import Options, Platform, Tell
from flows.serve import check_port, is_loopback, known_name
from serving.errors import BadInput
from serving.locks import lock as lock_of
from serving.settings import find_home, load_settings


def bring_up(options: Options, tell: Tell, ready: Callable[[dict[str, object]], None]) -> None:
    """Starts everything, calls `ready` once all of it answers, and keeps it so until Ctrl-C or SIGTERM.

    Writes `up.json` and `logs/` under the home while it runs. Raises BadInput: a port is taken, an address beyond
    loopback without secrets, more than one model to serve and no name, or it runs already; PlatformError: a component
    does not come up.
    """
    home = find_home()
    _check(options)
    options = replace(options, name=_name_to_serve(options, home))
    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home), _stop_signals() as stopped:
        platform = Platform(options, home, tell)
        try:
            platform.start(stopped)
            if not stopped():
                _write_address(home, options)
                ready(
                    {"prefect": options.api, "service": options.service if options.serve else None, "pid": os.getpid()}
                )
            platform.watch(stopped)
        finally:
            (home / quiet.ADDRESS).unlink(missing_ok=True)
            platform.stop()


def _check(options: Options) -> None:
    if not is_loopback(options.host):
        wanted = ["PREFECT_SERVER_API_AUTH_STRING", *(["THAW_API_TOKEN"] if options.serve else [])]
        missing = [name for name in wanted if not os.environ.get(name)]
        if missing:
            raise BadInput(f"expected {' and '.join(missing)} for the address {options.host}, found none: set a secret")
    ports = {"--prefect-port": options.prefect_port} | ({"--port": options.port} if options.serve else {})
    if len(set(ports.values())) < len(ports):
        raise BadInput(
            f"expected two ports, found {options.port} for --prefect-port and --port: choose another for one"
        )
    for option, port in ports.items():
        check_port(options.host, port, option)


def _name_to_serve(options: Options, home: Path) -> str | None:
    """Settled once: a second model that is published meanwhile must not keep the service from starting again."""
    settings = load_settings()
    name = options.name or settings.name
    return known_name(settings.ledger or home, name) if options.serve else name


def _write_address(home: Path, options: Options) -> None:
    (home / quiet.ADDRESS).write_text(json.dumps({"api": options.api, "pid": os.getpid()}))


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = lock_of(home, "up")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"expected no other `thaw up` for {home}, found one running: stop it first") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came; a second one changes nothing, so that the stop stays clean."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
