"""The measurement of preparation: on few pictures, and what it requires."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.preparation import (
    SMALL,
    measure_photos,
    measure_small,
    peak_memory,
    requirements,
    table,
    write_photos,
    write_small,
)
from tasks.data.units import components, perceptual_hash


def test_small_pictures_are_prepared_in_processes_of_their_own(tmp_path: Path) -> None:
    found = measure_small(tmp_path, 60)
    assert found["count"] == 60
    assert found["seconds"] > found["again_seconds"] > 0
    assert found["each_ms"] == pytest.approx(found["seconds"] / 60 * 1e3)
    assert 10e6 < found["peak"] < 1e9
    assert list(tmp_path.iterdir()) == []


def test_photos_are_prepared_in_turn_with_the_loop(tmp_path: Path) -> None:
    found = measure_photos(tmp_path, 100, 40, rounds=2)
    assert found["plain_ms"] > 0
    assert found["faster"] == pytest.approx(found["plain_ms"] / found["ours_ms"])
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_made_are_different_ones(tmp_path: Path) -> None:
    """Near duplicates would be one unit, and finding them is part of what is measured."""
    write_small(tmp_path / "small", 80)
    write_photos(tmp_path / "photos", 200, 40)
    for folder, count in (("small", 80), ("photos", 40)):
        pictures = [Image.open(path) for path in sorted((tmp_path / folder).rglob("*.jpg"))]
        looks = np.stack([perceptual_hash(picture) for picture in pictures])
        assert len(set(components([str(i) for i in range(count)], [None] * count, looks))) == count
    assert {picture.size for picture in pictures} == {(200, 150)}
    assert Image.open(next((tmp_path / "small").rglob("*.jpg"))).size == (SMALL, SMALL)


def test_the_peak_grows_with_what_is_kept() -> None:
    before = peak_memory()
    kept = np.ones(50_000_000, np.uint8)
    assert peak_memory() >= before
    assert peak_memory() > kept.nbytes


def figures(**changes: Any) -> dict[str, Any]:
    one = {"seconds": 10.0, "each_ms": 1.0, "peak": 2e8, "again_seconds": 0.1, "again_faster": 100.0}
    last = one | {"count": 100_000} | {key: value for key, value in changes.items() if key in one}
    speeds = {500: changes.get("at_500", 1.9), 1600: changes.get("at_1600", 8.5)}
    photos = [
        {"width": width, "count": 10, "bytes": 1e5, "plain_ms": 9.0, "ours_ms": 9.0 / faster, "faster": faster}
        for width, faster in speeds.items()
    ]
    return {"small": [one | {"count": 10_000}, last], "photos": photos, "cores": 2, "note": ""}


def test_it_requires_what_the_page_says_and_shows_it() -> None:
    assert all(holds for holds, _ in requirements(figures()))
    text = table(figures())
    assert "| 100000 | 10.0 s | 1.000 ms | 200 MB | 0.10 s (100x) |" in text
    assert "8.50x" in text


@pytest.mark.parametrize(
    "change", [{"peak": 1.6e9}, {"each_ms": 1.4}, {"again_faster": 49.0}, {"at_500": 1.7}, {"at_1600": 7.9}]
)
def test_each_requirement_can_fail(change: dict[str, float]) -> None:
    assert [holds for holds, _ in requirements(figures(**change))].count(False) == 1
