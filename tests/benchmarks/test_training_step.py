"""The measurement of a training step: on tiny pictures, and what it requires."""

from __future__ import annotations

from benchmarks.training_step import VARIANTS, measure, requirements, table


def test_each_variant_is_measured() -> None:
    found = measure(32, rounds=1)
    assert list(found["speeds"]) == list(VARIANTS)
    assert all(speed > 0 for speed in found["speeds"].values())


def test_it_requires_both_to_be_faster_and_says_by_how_much() -> None:
    speeds = {"as torch does it": 10.0, "folded": 12.0, "kept": 14.0, "both": 20.0}
    figures = {"sizes": [{"size": 32, "speeds": speeds}], "note": ""}
    assert [holds for holds, _ in requirements(figures)] == [True]
    assert "20.0 (2.00x)" in table(figures)
    assert [holds for holds, _ in requirements({"sizes": [{"size": 32, "speeds": speeds | {"both": 9.0}}]})] == [False]
