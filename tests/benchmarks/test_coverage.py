"""The coverage benchmark: holds with the real intervals, notices wrong ones, and ends a program as it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage
from tasks.evaluation.intervals import Interval


def unmet(found: list[tuple[bool, str]]) -> list[str]:
    return [problem for holds, problem in found if not holds]


def test_the_real_intervals_hold() -> None:
    figures = coverage.measure(draws=300)
    assert unmet(coverage.requirements(figures)) == []
    assert "| 400 |" in coverage.table(figures)


def test_an_interval_that_is_too_narrow_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wald(successes: float, n: float, _confidence: float) -> Interval:
        p = successes / n
        half = 1.96 * float(np.sqrt(p * (1 - p) / n))
        return p - half, p + half

    monkeypatch.setattr(coverage, "wilson", wald)
    monkeypatch.setattr(coverage, "clopper_pearson_lower", lambda k, n: wald(k, n, 0.95)[0])
    problems = unmet(coverage.requirements(coverage.measure(draws=300)))
    assert any("Wilson's mean coverage" in problem for problem in problems)
    assert any("the threshold's bound" in problem for problem in problems)


def test_exact_coverage_is_that_of_a_hand_count() -> None:
    """n = 1 at 0.5: the interval of no success covers it, that of one does not."""
    covers = np.array([[True, False]])
    assert coverage._exact(covers, 1, np.array([0.5]))[0] == pytest.approx(0.5)


def test_conclude_keeps_the_figures_and_says_what_is_not_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coverage, "RESULTS", tmp_path / "results")
    with pytest.raises(SystemExit) as ended:
        coverage.conclude("x", {"figure": 1}, "# Table\n", [(True, "fine"), (False, "2, found 1")], write=True)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "not met: 2, found 1\n"
    assert json.loads((tmp_path / "results" / "x.json").read_text()) == {"figure": 1}
    assert (tmp_path / "results" / "x.md").read_text() == "# Table\n"
    with pytest.raises(SystemExit) as ended:
        coverage.conclude("x", {}, "", [(True, "fine")], write=False)
    assert ended.value.code == 0
