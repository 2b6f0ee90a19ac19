"""Settings that Prefect and BentoML read when they are imported: an ephemeral server that starts, and says little.

Only defaults: what the user set in the environment holds. Like every variable they stand above a Prefect profile.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short for the first start's migrations
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are told once, by the command line
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


ADDRESS = "up.json"  # under the home, while `thaw up` runs
_ours: set[str] = set()  # which variables the user had not set


def set_defaults() -> None:
    """Call before the first import of prefect or bentoml."""
    _ours.update(_DEFAULTS.keys() - os.environ.keys())
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)


def without_defaults() -> dict[str, str]:
    """The environment as the user gave it, for processes whose log is read."""
    return {key: value for key, value in os.environ.items() if key not in _ours}


def use_platform(home: Path) -> None:
    """Lets this process use the Prefect server of a running `thaw up`, unless the environment names another.

    A profile's server does not count: this home's runs are on the one that `thaw up` keeps. Call before the first
    import of prefect.
    """
    try:
        address = json.loads((home / ADDRESS).read_text())
        pid, api = int(address["pid"]), str(address["api"])
        with suppress(PermissionError):  # it is another user's, and runs
            os.kill(pid, 0)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        # none runs, or it was killed and left its address
        return
    os.environ.setdefault("PREFECT_API_URL", api)
    secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if secret and os.environ["PREFECT_API_URL"] == api:  # as `thaw up` itself does: its server wants it
        os.environ.setdefault("PREFECT_API_AUTH_STRING", secret)


def prefect_api() -> str:
    """Which Prefect API a run will use, in words."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or "an ephemeral server of this run"
