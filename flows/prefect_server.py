"""`prefect server ...` made fit for SQLite: how `thaw up` starts the Prefect server.

    python -m flows.prefect_server server start --host 127.0.0.1 --port 4200

On SQLite, the server as it comes may answer nobody for a minute. Python collects garbage on whichever thread
allocates, mostly the event loop's. A cursor that dies there resets its statement and for that needs its connection's
mutex. Another thread holds it while it waits, for up to Prefect's busy_timeout of 60 s, for a lock whose holder only
the event loop can bring to its commit. A collector on a thread of its own may wait as long as it has to. And it loses
events: flows/broker.py. Figures for both: docs/decisions/0011-prefect-on-sqlite.md.
"""

from __future__ import annotations

import gc
import itertools
import os
import runpy
import threading
import time

YOUNG_SECONDS = 1.0  # between two collections of what was made since; under load some MB
OLD_EVERY = 60  # collections of everything come this much more rarely: each takes about half a second

BROKER = "PREFECT_SERVER_EVENTS_MESSAGING_BROKER"


def wait_for_the_database() -> None:
    """Prefect's events go through flows/broker.py, unless the environment names a broker, say Redis. Before Prefect."""
    if "PREFECT_MESSAGING_BROKER" not in os.environ:  # the setting's older name
        os.environ.setdefault(BROKER, "flows.broker")


def collect_apart() -> None:
    """From now on, garbage of this process is collected by one daemon thread."""
    gc.disable()
    threading.Thread(target=_collect, name="collector", daemon=True).start()


def _collect() -> None:
    for turn in itertools.count(1):
        time.sleep(YOUNG_SECONDS)
        gc.collect(1 if turn % OLD_EVERY else 2)


if __name__ == "__main__":
    wait_for_the_database()
    collect_apart()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
