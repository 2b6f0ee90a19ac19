"""`thaw promote`, `thaw rollback` and `thaw show` beside running servers, as those report themselves to the ledger."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from flows.quiet import ADDRESS
from flows.show import describe_models, print_models
from serving import servers
from serving.ledger import Ledger, opened
from serving.servers import ALIVE_SECONDS, Server
from tests.flows.conftest import NAME, Ran, command, promote, publish, thaw

SOON = 0.6


@pytest.fixture(autouse=True)
def _published(home: Path, bentoml_home: Path) -> None:
    """Versions 1 to 3, of which 1 is the champion (generation 1)."""
    publish(home, 3)
    promote(home, 1)


def server(place: str, generation: int = 1, error: str | None = None, age: float = 0, name: str = NAME) -> Server:
    """A server's row. The versions are promoted here in their order, so the generation names the version too."""
    return Server(
        id=f"id of {place}",
        name=name,
        place=place,
        version=generation or None,
        generation=generation,
        provider="CPUExecutionProvider" if generation else None,
        error=error,
        seen_at=time.time() - age,
    )


def running(home: Path, *rows: Server) -> None:
    with opened(home, create=False) as ledger:
        for row in rows:
            servers.report(ledger, row)


@contextmanager
def later(home: Path, generation: int, act: Callable[[Ledger], None]) -> Iterator[None]:
    """Does something a moment after the champion has that generation, while the block runs."""

    def wait() -> None:
        with opened(home, create=False) as ledger:
            deadline = time.monotonic() + 30
            while ledger.champion(NAME).generation < generation and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(SOON)
            act(ledger)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def timed(*arguments: object) -> tuple[Ran, float]:
    begun = time.monotonic()
    ran = thaw(*arguments)
    return ran, time.monotonic() - begun


# --- no server ---------------------------------------------------------------------------------------


def test_without_a_server_promote_says_who_is_champion_and_ends() -> None:
    ran = thaw("promote", "colours:2")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "colours:2 is the champion (generation 2)\nno server is running\n"


def test_without_a_server_rollback_says_who_is_champion_and_ends(home: Path) -> None:
    promote(home, 2)
    ran = thaw("rollback", NAME, "--why", "greens are missed")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "colours:1 is the champion (generation 3, on hold)\nno server is running\n"
    assert describe_models(NAME)["models"][0]["history"][-1]["why"] == "greens are missed"


def test_a_row_that_is_old_is_no_server(home: Path) -> None:
    running(home, server("gone:1", age=ALIVE_SECONDS + 1))
    ran, seconds = timed("promote", "colours:2")
    assert (ran.status, ran.out.splitlines()[1:]) == (0, ["no server is running"])
    assert seconds < 30, "it is not waited for"


def test_a_server_of_another_name_is_not_waited_for(home: Path) -> None:
    running(home, server("here:1", name="shapes"))
    assert thaw("promote", "colours:2").out.splitlines()[1:] == ["no server is running"]


def test_a_platform_that_does_not_answer_holds_nobody_up(
    home: Path, bentoml_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's server is down while `thaw up` is there to start it again."""
    monkeypatch.setenv("BENTOML_HOME", str(bentoml_home))
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{dead.getsockname()[1]}/api"
        (home / ADDRESS).write_text(json.dumps({"api": api, "pid": os.getpid()}))
        begun = time.monotonic()
        ran = command("promote", "colours:2", cwd=tmp_path)
    assert (ran.status, ran.out.partition("\n")[0]) == (0, "colours:2 is the champion (generation 2)"), ran.err
    assert time.monotonic() - begun < 60, "most of it is the time that Python needs to start"


# --- servers that follow ------------------------------------------------------------------------------


def test_promote_waits_until_every_server_answers_with_it(home: Path) -> None:
    running(home, server("a:1", generation=2), server("b:2"))
    with later(home, 2, lambda ledger: servers.report(ledger, server("b:2", generation=2))):
        ran, seconds = timed("promote", "colours:2")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "colours:2 is the champion (generation 2)",
        "1/2 servers now answer colours:2",
        "2/2 servers now answer colours:2",
    ]
    assert SOON <= seconds < 30


def test_rollback_waits_too(home: Path) -> None:
    promote(home, 2)
    running(home, server("a:1", generation=2))
    with later(home, 3, lambda ledger: servers.report(ledger, replace(server("a:1", generation=3), version=1))):
        ran = thaw("rollback", NAME)
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "colours:1 is the champion (generation 3, on hold)",
        "0/1 servers now answer colours:1",
        "1/1 servers now answer colours:1",
    ]


def test_a_server_that_stops_meanwhile_is_not_waited_for(home: Path) -> None:
    running(home, server("a:1", generation=2), server("b:2"))
    with later(home, 2, lambda ledger: servers.leave(ledger, "id of b:2")):
        ran = thaw("promote", "colours:2")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[1:] == ["1/2 servers now answer colours:2", "1/1 servers now answer colours:2"]


def test_a_server_that_is_already_further_is_ready(home: Path) -> None:
    """Somebody else promoted the next version while we waited."""
    running(home, server("a:1", generation=3))
    ran = thaw("promote", "colours:2")
    assert (ran.status, ran.out.splitlines()[1:]) == (0, ["1/1 servers now answer colours:2"])


# --- servers that do not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (server("b:2"), "b:2: still answers version 1"),
        (server("b:2", error="expected a digest,\nfound [bold]one[/]"), "b:2: expected a digest, found [bold]one[/]"),
        (server("b:2", generation=0), "b:2: no answers yet"),
    ],
    ids=["behind", "error", "nothing yet"],
)
def test_a_server_that_does_not_follow_ends_it_with_1_and_its_reason(home: Path, late: Server, reason: str) -> None:
    running(home, server("a:1", generation=2), replace(late, seen_at=time.time()))
    ran, seconds = timed("promote", "colours:2", "--wait", "0.5")
    assert ran.status == 1
    assert ran.out.splitlines()[1:] == ["1/2 servers now answer colours:2"]
    (line,) = ran.err.splitlines()
    assert line.startswith("b:2: ")
    assert reason in line
    assert 0.5 <= seconds < 15
    assert describe_models(NAME)["models"][0]["champion"]["version"] == 2, "it is champion all the same"


def test_wait_0_does_not_wait_and_is_no_failure(home: Path) -> None:
    running(home, server("b:2"))
    ran = thaw("promote", "colours:2", "--wait", "0")
    assert ran.status == 0
    assert ran.out.splitlines()[1:] == ["0/1 servers now answer colours:2"]
    assert ran.err == "b:2: still answers version 1\n", "who is late is said"


def test_a_negative_wait_is_refused_before_anything_moves(home: Path) -> None:
    assert thaw("promote", "colours:2", "--wait", "-1").status == 2
    assert describe_models(NAME)["models"][0]["champion"]["version"] == 1


# --- one document -------------------------------------------------------------------------------------


def test_json_is_one_document_with_the_servers(home: Path) -> None:
    rows = (server("a:1", generation=2), server("b:2"))
    running(home, *rows)
    caught_up = server("b:2", generation=2)
    with later(home, 2, lambda ledger: servers.report(ledger, caught_up)):
        ran = thaw("promote", "colours:2", "--json")
    assert ran.status == 0
    champion = {"name": NAME, "version": 2, "generation": 2, "hold": False}
    assert ran.document == champion | {"servers": [asdict(rows[0]), asdict(caught_up)]}
    assert ran.err.splitlines() == [
        "colours:2 is the champion (generation 2)",
        "1/2 servers now answer colours:2",
        "2/2 servers now answer colours:2",
    ]


def test_json_of_a_rollback_that_a_server_does_not_follow(home: Path) -> None:
    promote(home, 2)
    running(home, server("a:1", generation=2, error="the disk is gone"))
    ran = thaw("rollback", NAME, "--wait", "0.3", "--json")
    assert ran.status == 1
    assert (ran.document["version"], ran.document["hold"]) == (1, True)
    assert [found["error"] for found in ran.document["servers"]] == ["the disk is gone"]
    assert ran.err.splitlines()[-1] == "a:1: the disk is gone"


def test_json_without_a_server_has_an_empty_list() -> None:
    ran = thaw("promote", "colours:2", "--json")
    assert (ran.status, ran.document["servers"]) == (0, [])


# --- thaw show ----------------------------------------------------------------------------------------


def test_show_says_when_no_server_is_running(home: Path) -> None:
    running(home, server("gone:1", age=ALIVE_SECONDS + 1))
    assert "no server is running" in thaw("show").out.splitlines()
    assert thaw("show", NAME, "--json").document["models"][0]["servers"] == []


def test_show_lists_the_servers_by_place(home: Path) -> None:
    rows = (server("a:1", error="expected [a] digest"), server("b:2", generation=0), server("c:3", age=3))
    running(home, *reversed(rows))
    assert thaw("show", NAME, "--json").document["models"][0]["servers"] == [asdict(row) for row in rows]
    out = io.StringIO()
    print_models(Console(file=out, width=200), describe_models(NAME))
    lines = [line.split() for line in out.getvalue().splitlines()]
    header = next(number for number, line in enumerate(lines) if line[:2] == ["server", "answers"])
    assert lines[header + 1][:4] == ["a:1", "version", "1", "CPUExecutionProvider"]
    assert lines[header + 1][-3:] == ["expected", "[a]", "digest"]
    assert lines[header + 2][:4] == ["b:2", "nothing", "yet", "-"]
    assert lines[header + 3][4:] == ["3", "s", "ago"]
    assert "no server is running" not in out.getvalue()


def test_show_puts_a_server_that_is_behind_in_red(home: Path) -> None:
    promote(home, 2)
    running(home, server("a:1"), server("b:2", generation=2), server("c:3", generation=0))
    out = io.StringIO()
    print_models(Console(file=out, width=200, force_terminal=True, color_system="standard"), describe_models(NAME))
    red = {place: "\x1b[31m" in line for line in out.getvalue().splitlines() for place in ("a:1", "b:2", "c:3")
           if place in line}  # fmt: skip
    assert red == {"a:1": True, "b:2": False, "c:3": True}
