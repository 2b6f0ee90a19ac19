"""The drill against the OpenAPI document: the control's lie, and each requirement failing when it should."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.fuzz import WANTED, number, requirements, table, with_a_lie
from serving.openapi import document
from serving.settings import Settings
from tests.benchmarks.spoiled import spoiled, unmet

FIGURES: dict[str, Any] = {
    "requests": 16_000, "failures": 0, "status": 0, "report": "16,000 generated", "control_failures": 2,
    "token_in_the_log": 0, "tracebacks_in_the_log": 0,
}  # fmt: skip


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES, WANTED)) == []
    assert "| requests | 16000 |" in table(FIGURES)
    assert "| tracebacks, tokens in the server's log | 0, 0 |" in table(FIGURES)


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("requests", WANTED - 1, "at least 2000 requests, found 1999"),
        ("requests", 0, "found 0: 16,000 generated"),
        ("failures", 1, "no failure, found 1"),
        ("status", 2, "no failure, found 0: 16,000 generated"),
        ("token_in_the_log", 1, "no token in the log, found 1"),
        ("tracebacks_in_the_log", 1, "no defect in the log, found 1"),
        ("control_failures", 0, "the control's lie is found out"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: int, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, figure, value), WANTED))
    assert words in text


def test_the_lie_is_one_more_field_and_nothing_else() -> None:
    true = document(Settings())
    before = copy.deepcopy(true)
    lie = with_a_lie(true)
    assert true == before, "the true one is not touched"
    added = lie["components"]["schemas"]["Prediction"]["required"]
    assert added == [*true["components"]["schemas"]["Prediction"]["required"], "colour"]
    added.remove("colour")
    assert lie == true


def test_numbers_are_read_as_schemathesis_writes_them() -> None:
    assert (number("7"), number("16,023")) == (7, 16_023)
