"""The measurement of what feeding costs: on tiny pictures, and what it requires."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.feeding import measure, requirements, table
from tests.conftest import needs_gpu


def test_both_are_measured(tmp_path: Path) -> None:
    found = measure(tmp_path, pictures=64, size=32, batch=8, rounds=1, device="cpu")
    assert (found["device"], found["precision"], found["batch"]) == ("cpu", "fp32", 8)
    assert all(speed > 0 for speed in found["speeds"].values())
    assert found["share"] == pytest.approx(found["speeds"]["fed"] / found["speeds"]["bare"])
    assert found["pictures"] % 8 == 0


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_is_fed_in_bf16(tmp_path: Path) -> None:
    found = measure(tmp_path, pictures=64, size=32, batch=8, rounds=1, device="cuda")
    assert (found["device"], found["precision"]) == ("cuda", "bf16")
    assert all(speed > 0 for speed in found["speeds"].values())


def test_it_requires_nine_tenths() -> None:
    figures: dict[str, Any] = {
        "device": "cpu", "precision": "fp32", "size": 224, "batch": 32, "pictures": 1024, "note": "",
        "speeds": {"fed": 27.0, "bare": 30.0}, "rounds": {"fed": [27.0], "bare": [30.0]}, "share": 0.9,
    }  # fmt: skip
    assert [holds for holds, _ in requirements(figures)] == [True]
    assert "Share: 90.0%." in table(figures)
    assert [holds for holds, _ in requirements(figures | {"share": 0.89})] == [False]
