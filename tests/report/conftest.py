"""The width of an interval is not what these tests are about: a few draws do."""

from __future__ import annotations

import pytest

from tasks.evaluation import intervals


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 40)
    monkeypatch.setattr(intervals, "DRAWS", 100)
