"""Each requirement of the stalls failing when it should, and the drill on a real server for a moment."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import stalls
from tests.benchmarks.spoiled import unmet

RUN = {"answers": 900, "busy": 100, "refused": 0, "median_seconds": 0.03, "longest_seconds": 2.0, "lost_events": 0}
STALLED = RUN | {"longest_seconds": 61.0, "lost_events": 7}
FIGURES: dict[str, Any] = {
    "seconds": 75.0, "clients": 8, "cores": 2,
    "as it comes": [STALLED], "only its garbage apart": [RUN | {"lost_events": 9}],
    stalls.OURS: [RUN],
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(stalls.requirements(FIGURES)) == []
    assert stalls.table(FIGURES).splitlines()[-1] == "| as `thaw up` starts it | 900 | 100 | 0 | 30 | 2.0 | 0 |"


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("longest_seconds", 60.4, "every answer within 30 s, found 60.4 s"),
        ("refused", 2, "no answer but 2xx and 503, found 2 others"),
        ("lost_events", 1, "no event lost, found 1"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: float, words: str) -> None:
    (text,) = unmet(stalls.requirements(FIGURES | {stalls.OURS: [RUN, RUN | {figure: value}]}))
    assert text == words


def test_what_the_clients_of_a_real_server_are_answered() -> None:
    found = stalls.loaded(stalls.OURS, seconds=3, settle=2)

    assert found["answers"] > found["busy"], "most of them did something"
    assert (found["refused"], found["lost_events"]) == (0, 0)
