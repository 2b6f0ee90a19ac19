"""Settings that Prefect and BentoML read when they are imported: an ephemeral server that starts, and says little.

Only defaults: what the user set in the environment or a profile holds.
"""

from __future__ import annotations

import os

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


def set_defaults() -> None:
    """Call before the first import of prefect or bentoml."""
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)


def prefect_api() -> str:
    """Which Prefect API a run will use, in words."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or "an ephemeral server of this run"
