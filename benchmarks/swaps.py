"""Does a server lose or falsify an answer while models come and go?

    uv run python -m benchmarks.swaps [--moves 50] [--requests 50000] [--write]

Small models whose answers to the same pictures all differ are promoted and rolled back while clients ask without a
pause; one move in five goes to a broken candidate (truncated, wrong digest, NaN weights, wrong classes, wrong input).
Required: no request fails; each answer equals its version's offline answer; no answer of the version before begins
after the server reported the next one, at most 10 s after the move; memory grows by at most 50 MB. Controls: the
requests lost when the server's process is killed are seen, and so are the answers of a version that is not what it
says. About 4 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.candidates import BROKEN, GOOD, NAME, Expected, made_pictures, publish_all
from benchmarks.coverage import conclude, rows
from benchmarks.served import Server, model_store, served
from serving import servers
from serving.ledger import Ledger, opened
from serving.store import Store

BREAK_EVERY = 5
CLIENTS = 8
SECONDS_TO_ANSWER = 10.0
GROWTH_MB = 50.0
WARM_UP_REQUESTS = 2000  # before memory is looked at first


@dataclass
class Asked:
    """One request: when, of which picture, and what came back. `version` is 0 where nothing did."""

    began: float
    ended: float
    picture: int
    version: int
    label: str
    probability: float


@dataclass
class Load:
    """Clients in a thread of their own that ask until told to stop."""

    url: str
    pictures: list[bytes]
    asked: list[Asked] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        for picture in itertools.cycle(range(len(self.pictures))):
            if self._stop.is_set():
                return
            which, began = (picture + number) % len(self.pictures), time.monotonic()
            version, label, probability = 0, "", 0.0
            try:
                async with session.post(f"{self.url}/v1/predict", data=self.pictures[which]) as response:
                    body = await response.json()
                    if response.status == 200:
                        version, label, probability = body["model"]["version"], body["label"], body["probability"]
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.01)  # a server that is gone is not asked thousands of times a second
            self.asked.append(Asked(began, time.monotonic(), which, version, label, probability))


@dataclass
class Move:
    """One promotion or rollback: what it went to, when it was ordered, and when the server reported it."""

    version: int
    works: bool
    ordered: float
    reported: float = float("inf")
    error: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--requests", type=int, default=50_000, help="go on until that many were sent")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-swaps-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder), arguments.moves, arguments.requests)
    conclude("swaps", figures, table(figures), requirements(figures), arguments.write)


def measure(place: Path, moves: int, requests: int) -> dict[str, Any]:
    home, pictures = place / "home", list(made_pictures())
    with opened(home) as ledger:
        store = Store(home, ledger)
        expected = publish_all(place, store, pictures)
        ledger.promote(NAME, 1, who="drill", why="first")
        environment = {"THAW_HOME": str(home), "BENTOML_HOME": str(place / "bentoml"), "THAW_POLL_SECONDS": "0.2"}
        environment |= {"THAW_DEVICE": "cpu", "THAW_LOG_LEVEL": "WARNING"}
        with served(environment, log=place / "log") as server:
            with Load(server.url, pictures) as load:
                wait_until(lambda: len(load.asked) >= WARM_UP_REQUESTS)
                before = server.megabytes()
                moved = list(move_about(ledger, moves, load, requests))
                wait_until(lambda: len(load.asked) >= requests)
            growth = server.megabytes() - before
            lost = lost_when_killed(server, pictures)
    figures = judged(load.asked, moved, expected)
    falsified = {(version, picture): expected[version % GOOD + 1, picture] for version, picture in expected}
    return figures | {
        "memory_mb": before,
        "memory_growth_mb": growth,
        "control_lost_when_killed": lost,
        "control_falsified_found": judged(load.asked, moved, falsified)["wrong"],
    }


# --- moves --------------------------------------------------------------------------------------------


def move_about(ledger: Ledger, moves: int, load: Load, requests: int) -> Iterator[Move]:
    """Promotions, every fifth to a broken candidate, the one after it back from there; spread over the requests."""
    good, broken = itertools.cycle(range(2, GOOD + 1)), itertools.cycle(range(GOOD + 1, GOOD + 1 + len(BROKEN)))
    for number in range(1, moves + 1):
        wait_until(lambda due=number * requests // (moves + 1): len(load.asked) >= due)  # type: ignore[misc]
        works = number % BREAK_EVERY != 0
        if number % BREAK_EVERY == 1 and number > 1:
            move = Move(0, True, time.monotonic())
            champion = ledger.rollback(NAME, who="drill", why="back")
            move.version = int(champion.version or 0)
        else:
            move = Move(next(good) if works else next(broken), works, time.monotonic())
            champion = ledger.promote(NAME, move.version, who="drill", why="forth", override=True, release_hold=True)
        yield settled(ledger, move, champion.generation)


def settled(ledger: Ledger, move: Move, generation: int) -> Move:
    """The move, once the server's row says that it answers with it, or why it does not."""
    deadline = time.monotonic() + 3 * SECONDS_TO_ANSWER
    while time.monotonic() < deadline:
        for server in servers.running(ledger, NAME):
            if server.generation >= generation or (server.error and not move.works):
                move.reported, move.error = time.monotonic(), server.error
                return move
        time.sleep(0.05)
    return move


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


# --- what is judged -----------------------------------------------------------------------------------


def judged(asked: list[Asked], moves: list[Move], expected: Expected) -> dict[str, Any]:
    answered = [one for one in asked if one.version]
    wrong = sum(not right(one, expected) for one in answered)
    good = [move for move in moves if move.works]
    late = sum(
        one.version != move.version
        for move, after in zip(good, [*(later.ordered for later in good[1:]), float("inf")], strict=True)
        for one in answered
        if move.reported < one.began and one.ended < after
    )
    return {
        "requests": len(asked),
        "failed": len(asked) - len(answered),
        "wrong": wrong,
        "old_answers_after_the_report": late,
        "versions_seen": len({one.version for one in answered}),
        "moves": len(moves),
        "broken": len(moves) - len(good),
        "slowest_seconds": max(move.reported - move.ordered for move in good),
        "broken_without_an_error": sum(not move.works and not move.error for move in moves),
    }


def right(one: Asked, expected: Expected) -> bool:
    label, probability = expected.get((one.version, one.picture), ("", 0.0))
    return label == one.label and abs(probability - one.probability) <= 1e-5


def lost_when_killed(server: Server, pictures: list[bytes]) -> int:
    """The control: a server whose worker dies must be seen to lose requests."""
    with Load(server.url, pictures) as load:
        wait_until(lambda: len(load.asked) >= 200)
        server.kill_worker()
        time.sleep(2)
    return sum(not one.version for one in load.asked)


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    return [
        (f["failed"] == 0, f"0 failed requests, found {f['failed']} of {f['requests']}"),
        (f["wrong"] == 0, f"every answer its version's, found {f['wrong']} others"),
        (f["old_answers_after_the_report"] == 0, f"no old answer later, found {f['old_answers_after_the_report']}"),
        (f["slowest_seconds"] <= SECONDS_TO_ANSWER, f"a move within 10 s, found {f['slowest_seconds']:.1f}"),
        (f["broken_without_an_error"] == 0, f"an error for each broken one, missing {f['broken_without_an_error']}"),
        (f["versions_seen"] >= min(GOOD, f["moves"] // 2), f"several versions seen, found {f['versions_seen']}"),
        (f["memory_growth_mb"] <= GROWTH_MB, f"at most {GROWTH_MB} MB more, found {f['memory_growth_mb']:.0f}"),
        (f["control_lost_when_killed"] > 0, "the control loses requests when the server's process is killed"),
        (f["control_falsified_found"] > 0, "the control's falsified answers are found"),
    ]


def table(f: dict[str, Any]) -> str:
    body = [
        ("requests sent, failed", f"{f['requests']}, {f['failed']}"),
        ("moves of the champion, to broken candidates", f"{f['moves']}, {f['broken']}"),
        ("answers that were not their version's offline answer", f"{f['wrong']}"),
        ("answers of an older version begun after the report", f"{f['old_answers_after_the_report']}"),
        ("slowest from order to report", f"{f['slowest_seconds']:.2f} s"),
        ("broken candidates without an error in the server's row", f"{f['broken_without_an_error']}"),
        ("memory of the worker, growth", f"{f['memory_mb']:.0f} MB, {f['memory_growth_mb']:+.1f} MB"),
        ("control: lost when the worker is killed", f"{f['control_lost_when_killed']}"),
        ("control: falsified answers found", f"{f['control_falsified_found']}"),
    ]
    return "\n".join(["# Champions that come and go under load\n", rows(("", ""), body), ""])


if __name__ == "__main__":
    main()
