"""The collector's thread, on the deadlock it is there for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BUSY_SECONDS = 4  # how long SQLite waits for a lock; Prefect's 60

# what happens in Prefect's server on SQLite, without the server: `waiter` is aiosqlite's thread of one connection, the
# main thread is the event loop, which alone can commit `holder`'s transaction
PROGRAM = textwrap.dedent(f"""
    import gc, sqlite3, sys, threading, time
    from flows.prefect_server import collect_apart

    def connect():
        made = sqlite3.connect(sys.argv[1], check_same_thread=False, isolation_level=None)
        made.execute("pragma journal_mode = wal")
        made.execute("pragma busy_timeout = {BUSY_SECONDS * 1000}")
        return made

    class Cycle:
        def __init__(self, cursor):
            self.itself, self.cursor = self, cursor.execute("select 1 union select 2")

    def write():
        try:
            waiter.execute("insert into t values (2)")
        except sqlite3.OperationalError as error:
            print(error)

    holder, waiter = connect(), connect()
    holder.execute("create table t (x)")
    if sys.argv[2] == "apart":
        collect_apart()
    gc.collect()
    Cycle(waiter.cursor())  # garbage from here on
    holder.execute("begin immediate")
    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.5)
    kept = [[] for _ in range(200_000)]  # the event loop goes on; by default this collects the cycle
    holder.execute("commit")
    thread.join()
    until = time.monotonic() + 30
    while any(isinstance(one, Cycle) for one in gc.get_objects()) and time.monotonic() < until:
        time.sleep(0.1)
    print("collected" if time.monotonic() < until else "kept")
""")


@pytest.mark.parametrize(
    ("collector", "said"), [("apart", ["collected"]), ("usual", ["database is locked", "collected"])]
)
def test_garbage_does_not_stop_the_thread_that_holds_the_lock(tmp_path: Path, collector: str, said: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "x.db"), collector]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert (done.stdout.splitlines(), done.returncode) == (said, 0), done.stderr
