"""The simulated gate asks the real one, its world has the disagreement it states, and a gate that errs is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import gate_errors
from benchmarks.gate_errors import MARGIN, SCENARIOS, above_floor, nights, once, requirements, verdict


def test_the_verdict_is_the_gates() -> None:
    """400 positives: 26 lost and 6 gained are 5 points. A stated margin decides by interval, the built-in by value."""
    assert verdict(400, 6, 26, MARGIN) == "INCONCLUSIVE"  # -0.05 itself: the value holds, the interval cannot
    assert verdict(400, 6, 27, MARGIN) == "REJECTED"
    assert verdict(400, 16, 16, MARGIN) == "PASSED"
    assert verdict(400, 12, 20, None) == "PASSED"  # -0.02 itself
    assert verdict(400, 12, 21, None) == "REJECTED"
    assert (above_floor(360, 400), above_floor(325, 400)) == (True, False)


def cells(draws: int) -> dict[str, Any]:
    return {"once": [once(400, 0.08, difference, draws) for difference in (-MARGIN, 0.0)]}


def test_the_real_gate_meets_its_error_rates() -> None:
    assert all(holds for holds, _ in requirements(cells(1000)))


@pytest.mark.parametrize("always", ["PASSED", "INCONCLUSIVE"])
def test_a_gate_that_errs_is_noticed(always: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_errors, "verdict", lambda *_: always)
    assert [holds for holds, _ in requirements(cells(100))] == [always != "PASSED", always == "PASSED"]


def test_two_networks_disagree_as_often_as_stated() -> None:
    random = np.random.default_rng(0)
    difficulties = gate_errors._difficulties(200, random)
    first, second = (gate_errors._finds(np.full(200, 0.90), difficulties, random) for _ in range(2))
    assert first.mean() == pytest.approx(0.90, abs=0.01)
    assert (first != second).mean() == pytest.approx(0.08, abs=0.01)


def test_a_short_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_errors, "NIGHTS", 60)
    alike, decaying = SCENARIOS[0], SCENARIOS[-1]
    row = nights(alike, "interval", MARGIN, "alone", years=5)
    assert row["change_60"] == 0
    assert row["worse"] == 0
    alone, floored = (nights(decaying, "point", None, how, years=5) for how in ("alone", "floor"))
    assert alone["change_60"] <= floored["change_60"] < 0
    assert alone["promoted"] >= floored["promoted"]


def test_the_table_has_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_errors, "SIZES", (400,))
    monkeypatch.setattr(gate_errors, "DISAGREEMENTS", (0.02, 0.08))
    found = [
        once(400, share, d, 50) for share, d in [(0.02, -0.02), (0.02, 0.0), (0.08, -0.05), (0.08, -0.02), (0.08, 0.0)]
    ]
    year = nights(SCENARIOS[0], "interval", MARGIN, "fresh", years=1)
    text = gate_errors.table({"draws": 50, "years": 1, "once": found, "nights": [year]})
    assert "| 400 | 0.02 | - |" in text
    assert "all exactly as good | interval | fresh" in text
