"""What the swap drill counts, and each requirement failing when it should; `.ci/run` runs it on a real server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.candidates import NAME
from benchmarks.swaps import Asked, Move, judged, requirements, settled, table
from serving import servers
from serving.ledger import opened
from serving.servers import Server
from tests.benchmarks.spoiled import spoiled, unmet

FIGURES: dict[str, Any] = {
    "requests": 50_000, "failed": 0, "wrong": 0, "old_answers_after_the_report": 0, "versions_seen": 8, "moves": 50,
    "broken": 10, "slowest_seconds": 0.9, "broken_without_an_error": 0, "memory_mb": 210.0, "memory_growth_mb": 4.0,
    "control_lost_when_killed": 30, "control_falsified_found": 49_000,
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    assert "| requests sent, failed | 50000, 0 |" in table(FIGURES)


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("failed", 1, "0 failed requests, found 1 of 50000"),
        ("wrong", 1, "every answer its version's, found 1"),
        ("old_answers_after_the_report", 1, "no old answer later, found 1"),
        ("slowest_seconds", 10.1, "a move within 10 s, found 10.1"),
        ("slowest_seconds", float("inf"), "found inf"),
        ("slowest_seconds", float("nan"), "found nan"),
        ("broken_without_an_error", 1, "an error for each broken one"),
        ("versions_seen", 1, "several versions seen, found 1"),
        ("memory_growth_mb", 50.1, "at most 50.0 MB more"),
        ("control_lost_when_killed", 0, "the control loses requests"),
        ("control_falsified_found", 0, "falsified answers are found"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: Any, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, figure, value)))
    assert words in text


# --- what is counted ----------------------------------------------------------------------------------

EXPECTED = {(1, 0): ("red", 0.9), (2, 0): ("red", 0.8)}


def asked(began: float, version: int, probability: float, label: str = "red") -> Asked:
    return Asked(began, began + 0.1, 0, version, label, probability)


def counted(*answers: Asked) -> dict[str, Any]:
    """Version 1 until 10, then 2, reported at 11; then a broken one and, at 20, the way back to 1, reported at 21."""
    moves = [Move(2, True, 10.0, 11.0), Move(9, False, 15.0, 16.0, "broken"), Move(1, True, 20.0, 21.0)]
    return judged(list(answers), moves, EXPECTED)


def test_answers_of_either_version_are_right_while_it_moves() -> None:
    found = counted(asked(9, 1, 0.9), asked(10.5, 1, 0.9), asked(10.6, 2, 0.8), asked(17, 2, 0.8), asked(22, 1, 0.9))
    assert (found["failed"], found["wrong"], found["old_answers_after_the_report"]) == (0, 0, 0)
    assert (found["requests"], found["versions_seen"], found["slowest_seconds"]) == (5, 2, 1.0)


@pytest.mark.parametrize(
    ("answer", "figure"),
    [
        (asked(9, 0, 0.0, ""), "failed"),
        (asked(9, 1, 0.8), "wrong"),
        (asked(9, 1, 0.9, "blue"), "wrong"),
        (asked(9, 3, 0.9), "wrong"),
        (asked(11.5, 1, 0.9), "old_answers_after_the_report"),
        (asked(22, 2, 0.8), "old_answers_after_the_report"),
    ],
)
def test_one_that_is_not_right_is_counted(answer: Asked, figure: str) -> None:
    found = counted(asked(12, 2, 0.8), answer)
    counts = {name: found[name] for name in ("failed", "wrong", "old_answers_after_the_report")}
    assert counts == {name: int(name == figure) for name in counts}


@pytest.mark.parametrize("order", [1, -1])
def test_a_move_that_is_never_reported_is_the_slowest(order: int) -> None:
    moves = [Move(2, True, 10.0, 11.0), Move(1, True, 20.0)][::order]
    found = judged([asked(9, 1, 0.9)], moves, EXPECTED)
    assert "a move within 10 s, found inf" in unmet(requirements(FIGURES | found))


def test_a_broken_candidate_without_an_error_is_counted() -> None:
    moves = [Move(2, True, 10.0, 11.0), Move(9, False, 15.0, 16.0, None), Move(10, False, 17.0, 18.0, "broken")]
    assert judged([asked(9, 1, 0.9)], moves, EXPECTED)["broken_without_an_error"] == 1


def test_a_move_is_settled_when_the_server_s_row_says_so(tmp_path: Path) -> None:
    def row(generation: int, error: str | None = None) -> Server:
        return Server("id", NAME, "here:1", generation, generation, "x", error, time.time())

    with opened(tmp_path) as ledger:
        servers.report(ledger, row(1))
        later = threading.Timer(0.3, servers.report, (ledger, row(2)))
        later.start()
        move = settled(ledger, Move(2, True, time.monotonic()), 2)
        later.join()
        assert move.reported - move.ordered >= 0.25
        servers.report(ledger, row(2, "expected another digest"))
        move = settled(ledger, Move(9, False, time.monotonic()), 3)
        assert move.error == "expected another digest"
