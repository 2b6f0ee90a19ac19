"""Long-lived processes: started again when they end, stopped for certain, gone when their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import processes
from flows.processes import Component, describe_status

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('child', child.pid, flush=True); time.sleep(60)"
)
PARENT = """
import os, sys
from pathlib import Path
from flows.processes import Component
command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
part = Component("part", command, os.environ, Path(sys.argv[1]), bool)
part.start()
print(part.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[str], Component]]:
    """A component that runs a line of Python; what is left of it is killed at the end."""
    all_of_them: list[Component] = []

    def make(code: str) -> Component:
        command = [sys.executable, "-S", "-c", code]
        all_of_them.append(Component("part", command, os.environ, tmp_path / "logs" / "part.log", lambda: True))
        return all_of_them[-1]

    yield make
    for part in all_of_them:
        if part.process is not None and part.process.poll() is None:
            os.killpg(part.process.pid, signal.SIGKILL)
            part.process.wait()


def wait_for(done: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def killed(part: Component) -> None:
    assert part.pid is not None
    os.kill(part.pid, signal.SIGKILL)
    wait_for(lambda: part.ended() is not None)


def gone(pid: int) -> bool:
    """A zombie that nobody waited for is gone as well."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_one_that_was_never_started_is_nothing(made: Callable[[str], Component]) -> None:
    part = made(SLEEP)
    assert (part.pid, part.ended(), part.restart_if_ended(), part.stop(), part.starts) == (None, None, None, None, 0)


def test_it_runs_in_a_session_of_its_own_and_writes_its_log(made: Callable[[str], Component]) -> None:
    part = made(SLEEP)
    part.start()
    wait_for(lambda: part.tail() == "up")
    assert part.pid is not None
    assert os.getsid(part.pid) == part.pid != os.getsid(0), "Ctrl-C reaches us alone"
    assert part.restart_if_ended() is None
    assert part.stop() == -signal.SIGTERM


def test_after_a_kill_it_starts_again_later_each_time(
    made: Callable[[str], Component], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_AGAIN_SECONDS", (0.0, 0.1, 0.2, 0.4))
    part = made(SLEEP)
    part.start()
    pauses, pids = [], {part.pid}
    for _ in range(4):
        killed(part)
        before = time.monotonic()
        said = part.restart_if_ended()
        assert said is not None and said.startswith("part ended (SIGKILL), starting it again in ")
        assert str(part.log) in said
        pauses.append(round(part.again_at - before, 1))
        assert part.restart_if_ended() is None, "told once"
        assert part.ended() is not None, "not before its time"
        wait_for(lambda: part.restart_if_ended() is None and part.ended() is None)
        assert time.monotonic() >= before + pauses[-1]
        pids.add(part.pid)
    assert pauses == [0.1, 0.2, 0.4, 0.4]
    assert (len(pids), part.starts) == (5, 5)


def test_one_that_ran_for_long_starts_again_at_once(
    made: Callable[[str], Component], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_AGAIN_SECONDS", (0.0, 60.0))
    part = made(SLEEP)
    part.start()
    part.early_ends = 1
    part.started_at -= processes._SOON + 1
    killed(part)
    assert part.restart_if_ended() is not None
    assert part.restart_if_ended() is None
    assert (part.early_ends, part.starts, part.ended()) == (0, 2, None)


def test_the_pauses_grow() -> None:
    assert list(processes._AGAIN_SECONDS) == sorted(set(processes._AGAIN_SECONDS))


def test_an_exit_is_told_by_its_status(made: Callable[[str], Component]) -> None:
    part = made("print('one'); print('two'); raise SystemExit(7)")
    part.start()
    wait_for(lambda: part.ended() is not None)
    assert "part ended (exit status 7)" in str(part.restart_if_ended())
    assert part.tail(1) == "two"
    assert part.stop() == 7, "stopped while it waits for its next start"


def test_the_end_of_its_output_is_this_sessions(made: Callable[[str], Component]) -> None:
    for word in ("before", "now"):
        part = made(f"print('{word}')")
        part.start()
        wait_for(lambda part=part: part.ended() is not None)
    assert part.log.read_text() == "before\nnow\n"
    assert part.tail() == "now"
    part.start()  # again in the same session
    wait_for(lambda: part.ended() is not None)
    assert part.tail() == "now\nnow"


def test_stop_ends_one_that_ignores_sigterm_with_its_children(
    made: Callable[[str], Component], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.3)
    part = made(STUBBORN)
    part.start()
    child = int(wait_for(lambda: part.log.read_text().partition(" ")[2]))
    assert not gone(child)
    start = time.monotonic()
    assert part.stop() == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - start < 10
    wait_for(lambda: gone(child))


def test_stop_gives_one_that_listens_its_time(made: Callable[[str], Component]) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('written', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    part = made(code)
    part.start()
    wait_for(lambda: part.tail() == "up")
    assert part.stop() == 0
    assert part.tail() == "up\nwritten"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_its_parent_however_that_went(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "part.log")],
        env=os.environ | {"PYTHONPATH": str(Path(processes.__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    wait_for(lambda: gone(child))


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (7, "exit status 7"), (-9, "SIGKILL"), (-15, "SIGTERM")]
)
def test_a_status_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words
