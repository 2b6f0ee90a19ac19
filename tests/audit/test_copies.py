"""Near duplicates: every change that a copy may have gone through is seen, and alike pictures are not called copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.plants import CHANGES, copy_of
from tasks.audit.copies import SAME, SURE, calibrated, find_copies
from tasks.audit.overlay import differences, small_copies
from tests.audit.made import as_pixels, texture


def features_of(images: list[Image.Image]) -> np.ndarray:
    """Not a backbone's: enough to propose."""
    return as_pixels(images, 8).reshape(len(images), -1).astype(np.float32)


def changed(image: Image.Image, kind: str, seed: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(copy_of(image, kind, np.random.default_rng(seed)))).convert("RGB")


@pytest.mark.parametrize("kind", [*CHANGES, "two", "all"])
def test_a_copy_of_each_kind_is_found_and_nothing_else(kind: str) -> None:
    originals = [texture(seed) for seed in range(30)]
    images = [*originals, *(changed(originals[i], kind, i) for i in range(6))]
    found = {(copy.first, copy.second) for copy in find_copies(as_pixels(images), features_of(images))}
    assert found == {(i, 30 + i) for i in range(6)}


def test_alike_pictures_are_no_copies() -> None:
    images = [texture(seed) for seed in range(40)]
    assert find_copies(as_pixels(images), features_of(images)) == ()


@pytest.mark.parametrize("place", [0, 12, 24])
def test_a_blank_picture_is_a_copy_of_blank_ones_only(place: int) -> None:
    images = [texture(seed) for seed in range(24)]
    for value in (0, 128, 255):
        blank = Image.new("RGB", (120, 120), (value,) * 3)
        one = [*images[:place], blank, *images[place:]]
        assert find_copies(as_pixels(one), features_of(one)) == ()
        two = [*one, blank]
        assert [(copy.first, copy.second) for copy in find_copies(as_pixels(two), features_of(two))] == [(place, 25)]


def test_drawings_on_an_empty_ground_are_no_copies() -> None:
    """Where most of a picture is empty, most of it always agrees."""
    drawn = [Image.fromarray((image * 15).astype(np.uint8)).resize((64, 64)) for image in load_digits().images[:150]]
    images = [image.convert("RGB") for image in drawn]
    assert find_copies(as_pixels(images), features_of(images)) == ()


def test_a_shift_is_undone_and_a_mirror_is_told() -> None:
    image = texture(5)
    shifted = image.crop((4, 2, 120, 118))
    small = small_copies(as_pixels([image, shifted, texture(6), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]))
    pairs = np.array([[0, 1], [0, 2], [0, 3], [0, 3]])
    found = differences(small, pairs, np.array([False, False, False, True]))
    assert found[0] < SAME < found[1]
    assert found[3] < 0.001 < SAME < found[2]


def test_the_limit_follows_the_folder_but_not_below_what_is_sure() -> None:
    pairs = np.array([[i, (i + 1) % 200] for i in range(200)])
    assert calibrated(np.full(200, 0.3, np.float32), pairs, 200) == pytest.approx(SAME)
    assert calibrated(np.full(200, 0.03, np.float32), pairs, 200) == pytest.approx(0.03)
    assert calibrated(np.zeros(200, np.float32), pairs, 200) == pytest.approx(SURE)


def test_a_crop_is_found_whichever_of_two_comes_first() -> None:
    originals = [texture(seed) for seed in range(24)]
    small = small_copies(as_pixels([*originals, *(changed(image, "cropped", i) for i, image in enumerate(originals))]))
    pairs = np.array([[i, 24 + i] for i in range(24)])
    for ordered in (pairs, pairs[:, ::-1]):
        assert differences(small, ordered, np.zeros(24, bool)).max() < SAME


def test_the_same_pictures_give_the_same_copies() -> None:
    images = [texture(seed) for seed in range(12)] + [changed(texture(3), "all")]
    first, second = (find_copies(as_pixels(images), features_of(images)) for _ in range(2))
    assert first == second
    assert len(first) == 1
