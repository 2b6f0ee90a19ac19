"""The simulated promises: few draws hold them, and rules that count pictures, or look everywhere, do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import threshold_promises
from benchmarks.threshold_promises import grouped_row, precision_row, requirements, table


def test_groups_and_one_sequence_of_looks_keep_the_promise() -> None:
    random = np.random.default_rng(0)
    figures: dict[str, Any] = {
        "draws": 100,
        "grouped": [grouped_row(40, 3, 100, random), grouped_row(3, 40, 20, random)],
        "precision": [precision_row(400, 100, random)],
    }
    assert all(holds for holds, _ in requirements(figures))
    many, few = figures["grouped"]
    assert many["issued_groups"] == 1 and few["issued_groups"] == 0 and few["kept_groups"] is None
    assert few["kept_pictures"] < 0.9 < many["kept_groups"]
    assert figures["precision"][0]["best_of_all"] > 0.1
    assert "| 3 x 40 | 0.0 | - |" in table(figures)


def test_a_rule_that_promises_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_promises, "chosen", lambda *_: 0.5)
    random = np.random.default_rng(0)
    figures = {"draws": 100, "grouped": [grouped_row(40, 3, 5, random)], "precision": [precision_row(100, 5, random)]}
    assert not any(holds for holds, _ in requirements(figures))
