"""Each requirement of the race drill failing when it should; `.ci/run` runs it with real processes."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.ledger_races import requirements, table
from benchmarks.postgres import binaries, postgres
from serving.ledger import opened
from tests.benchmarks.spoiled import spoiled, unmet

RACE = {
    "rounds": 100, "one_winner": 100, "most_winners": 1, "other_errors": 0, "generation": 101,
    "promotions_in_history": 101, "seconds": 30.0,
}  # fmt: skip
CONTROL = RACE | {"rounds": 10, "one_winner": 1, "most_winners": 4, "generation": 9, "promotions_in_history": 1}
FIGURES: dict[str, Any] = {
    "processes": 16, "rounds": 100, "SQLite": dict(RACE), "PostgreSQL": dict(RACE), "control": CONTROL,
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    first = [line.split(" | ")[0] for line in table(FIGURES).splitlines()[4:]]
    assert first == ["| SQLite", "| PostgreSQL", "| control"]


@pytest.mark.parametrize("engine", ["SQLite", "PostgreSQL"])
@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("one_winner", 99, "one winner in 100 rounds, found 99"),
        ("other_errors", 1, "conflicts only, found 1"),
        ("generation", 100, "generation 101, found 100"),
        ("generation", 102, "generation 101, found 102"),
        ("promotions_in_history", 100, "every promotion in the history"),
    ],
)
def test_a_bad_figure_is_noticed(engine: str, figure: str, value: int, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, f"{engine}/{figure}", value)))
    assert text.startswith(f"{engine}: {words}")


def test_a_control_that_lets_only_one_win_is_noticed() -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, "control/most_winners", 1)))
    assert text == "the careless control lets several win"


@pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL's initdb and pg_ctl")
def test_a_server_of_its_own_takes_a_ledger_and_is_gone_afterwards() -> None:
    with postgres() as url, opened(url) as ledger:
        ledger.publish("colours", 1, "0" * 64, "colours:1", "PASSED", "test", "postgres")
        assert ledger.names() == ("colours",)
    with pytest.raises(Exception, match="connection|connect"), opened(url):
        pass
