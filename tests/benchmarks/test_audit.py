"""The measurement of the audit: what it plants, how it counts, and what it requires."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.audit import count, requirements, table
from benchmarks.plants import CHANGES, copy_of, kinds, plant
from tests.audit.made import texture
from tests.benchmarks.test_coverage import unmet


def figures(**changed: Any) -> dict[str, Any]:
    caught = {kind: [1, 1] for kind in dict.fromkeys(kinds())}
    one = {"seed": 1, "kinds": caught, "caught": 0.96, "exact": 1.0, "flagged": 5, "others": 2400}
    label = {"seed": 1, "found": 0.9, "told": 100, "right": 0.6, "seconds": 2.0}
    leak = {"status": 2, "message": "found 1 pair of pictures in two of those you gave", "trained": False}
    one["seconds"] = {"prepare": 1.0, "embed": 30.0, "audit": 5.0}
    parts = {"copies": one, "labels": label, "leak": leak}
    for part, values in changed.items():
        parts[part] = parts[part] | values
    return {"copies": [parts["copies"]], "labels": [parts["labels"]], "leak": parts["leak"], "note": ""}


def test_copies_are_changed_as_they_are_called() -> None:
    image = texture(0, side=200)

    def copy(kind: str) -> Image.Image:
        return Image.open(io.BytesIO(copy_of(image, kind, np.random.default_rng(3))))

    made = {kind: copy(kind) for kind in CHANGES}
    assert made["saved"].format == "JPEG"
    assert made["resized"].size != image.size
    assert all(190 <= side < 200 for side in made["cropped"].size)
    assert np.array_equal(np.asarray(made["mirrored"])[:, ::-1], np.asarray(image))
    assert not np.array_equal(np.asarray(made["brighter"]), np.asarray(image))
    assert len(kinds()) == 200


def test_the_same_seed_plants_the_same_copies(tmp_path: Path) -> None:
    paths = []
    for number in range(200):
        paths.append(tmp_path / f"{number}.png")
        texture(number, side=40).save(paths[-1])
    first, second = (plant(paths, tmp_path / name, seed=1) for name in ("a", "b"))
    assert [(path, kind) for path, _, kind in first] == [(path, kind) for path, _, kind in second]
    assert all(a.read_bytes() == b.read_bytes() for (_, a, _), (_, b, _) in zip(first, second, strict=True))
    assert plant(paths, tmp_path / "c", seed=2)[0][0] != first[0][0]


def test_it_counts_pairs_and_pictures_that_nobody_planted() -> None:
    a, b, c, d, e = (Path(name) for name in "abcde")
    planted, exact = [(a, b, "saved"), (c, d, "two")], [(a, e, "exact")]
    other = Path("f"), Path("g")
    found = count(
        {frozenset((a, b)), frozenset((a, e)), frozenset((a, other[0])), frozenset(other)}, planted, exact, 10
    )
    assert (found["caught"], found["exact"], found["flagged"], found["others"]) == (0.5, 1.0, 2, 8)
    assert found["kinds"]["saved"] == [1, 1]
    assert found["kinds"]["two"] == [0, 1]


def test_it_requires_each_figure() -> None:
    assert unmet(requirements(figures())) == []
    for changed in (
        {"copies": {"caught": 0.94}},
        {"copies": {"exact": 0.99}},
        {"copies": {"flagged": 13}},
        {"labels": {"found": 0.69}},
        {"leak": {"status": 0}},
        {"leak": {"trained": True}},
        {"leak": {"message": "expected pictures, found none"}},
    ):
        assert len(unmet(requirements(figures(**changed)))) == 1, changed
    assert unmet(requirements(figures() | {"copies": []})) == ["expected a seed at least"]
    assert "5 of 2400 (0.21%)" in table(figures())
