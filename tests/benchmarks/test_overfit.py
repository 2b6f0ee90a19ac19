"""The story of the overfitting start: a tiny real run of it, and requirements that notice when it is not told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import overfit
from benchmarks.overfit import difference, requirements, table
from tests.benchmarks.spoiled import spoiled, unmet

RUN: dict[str, Any] = {
    "seed": 0, "size": 128, "device": "cpu", "epochs": 30,
    "counts": {"train": 256, "validation": 256, "test": 512},
    "majority": {"train": 0.69, "validation": 0.69, "test": 0.69},
    "accuracy": {
        "start": {"train": 0.98, "validation": 0.70, "test": 0.71},
        "head": {"train": 0.85, "validation": 0.79, "test": 0.79},
        "thaw": {"train": 0.90, "validation": 0.82, "test": 0.81},
    },
    "difference": {"points": 0.1, "low": 0.05, "high": 0.14},
    "seconds": {"start": 160.0, "thaw": 100.0},
    "kept": {"epoch": 6, "of": 8, "share": 0.75},
}  # fmt: skip
FIGURES = overfit.over_seeds([RUN])


def test_from_overfitting_to_generalising(tmp_path: Path) -> None:
    """Real photos, smaller than the program's: the start knows its pictures, Thaw gains 10 points without doing so."""
    run = overfit.measure(tmp_path, train=128, size=64, tune_epochs=10, counts=(256, 256), seed=overfit.FIRST_SEED)
    found = overfit.over_seeds([run])
    assert found["counts"] == {"train": 128, "validation": 256, "test": 256}
    assert found["majority"]["train"] == pytest.approx(54 / 128)  # functional, polycrystalline
    assert set(found["accuracy"]) == {"start", "head", "thaw"}
    assert len(requirements(found)) == 5
    assert unmet(requirements(found)) == []
    assert "| always the most frequent class | 42.2 |" in table(found)


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    text = table(FIGURES)
    assert "| from random weights, no augmentation | 98.0 | 70.0 | 71.0 |" in text
    assert (
        "On the validation pictures +12.0 points. On the test pictures +10.0 points, 95 % interval +5.0 to +14.0"
        in text
    )
    assert text.endswith("| 0 | 98.0 | 70.0 | 71.0 | 90.0 | 82.0 | 81.0 | +12.0 | 6 of 8, 75% |\n")


def test_the_median_of_the_seeds_decides() -> None:
    better, worse = (spoiled(RUN, "accuracy/thaw/validation", value) for value in (0.90, 0.71))
    assert unmet(requirements(overfit.over_seeds([worse, RUN, better]))) == []
    assert len(unmet(requirements(overfit.over_seeds([worse, RUN, worse])))) == 1
    assert overfit.over_seeds([worse, RUN, better])["gain"] == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("accuracy/start/train", 0.96, "a start that knows its pictures (>= 0.97), found 0.9600"),
        ("accuracy/start/validation", 0.76, "a start that does not generalise (<= 0.75), found 0.7600"),
        ("gain", 0.09, "validation accuracy 0.1 above the start's, found +0.0900"),
        ("accuracy/thaw/train", 0.95, "training accuracy below 0.95, found 0.9500"),
        ("difference/low", 0.0, "better on the test pictures beyond chance, found a lower end of +0.0000"),
    ],
)
def test_each_requirement_notices_its_figure(place: str, value: float, words: str) -> None:
    assert words in unmet(requirements(spoiled(FIGURES, place, value)))


def test_the_difference_is_paired() -> None:
    ours, start = np.ones(100, bool), np.arange(100) >= 20
    found = difference(ours, start)
    assert found["points"] == pytest.approx(0.2)
    assert 0.1 < found["low"] < 0.2 < found["high"] < 0.3
    assert difference(start, start)["points"] == 0
    assert difference(start, start)["low"] <= 0
    assert difference(start, ours)["high"] < 0
