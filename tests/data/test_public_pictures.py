"""Every public test picture, mixed into a clean folder: accepted or left out with a reason, and nothing crashes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from serving import sealed
from serving.errors import PictureError
from serving.preprocess import read_pixels
from tasks.data.dataset import pixels, subset
from tasks.data.listing import is_picture
from tasks.data.source import SPLITS
from tests.data.test_prepare import HALF, run
from tests.serving.pictures import needs_pictures, pictures


@needs_pictures
@pytest.mark.timeout(300)
def test_every_public_picture_is_accepted_or_left_out_with_a_reason(own: Path, home: Path) -> None:
    """Under its own name, or as `.jpg` where no picture is named so: then its content decides all the same."""
    given: dict[Path, Path] = {}
    for i, source in enumerate(pictures()):
        name = source.name if is_picture(source.name) else f"{source.name}.jpg"
        place = own / f"digit-{i % 2}" / f"{i:04d}-{name}"
        shutil.copy(source, place)
        given[place] = source
    dataset = run(own, home, max_unreadable=0.99)
    body = sealed.verify(dataset.path)
    reasons = {Path(one["path"]): one["why"] for one in body["unreadable"]}
    bridges = {Path(path) for path in body["bridges"]}
    accepted = {path: row for split in SPLITS for part in [subset(dataset, split)] for path, row in _rows(part)}
    assert set(given) == set(reasons) | ((set(accepted) | bridges) & set(given))
    assert not set(reasons) & set(accepted)
    assert all(reasons.values())
    assert len(accepted) > 32 + 300
    assert len(reasons) > 200
    images = pixels(dataset)
    for path, row in accepted.items():
        assert np.array_equal(images[row], read_pixels(path.read_bytes(), HALF)), path
    for path, why in reasons.items():
        with pytest.raises(PictureError) as caught:  # the server says the same of it
            read_pixels(path.read_bytes(), HALF)
        assert str(caught.value) == why


def _rows(part: object) -> list[tuple[Path, int]]:
    return list(zip(part.paths, part.rows.tolist(), strict=True))  # type: ignore[attr-defined]
