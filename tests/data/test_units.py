"""Pictures that give each other away are one unit: same bytes, same look, same group; different photos are not."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from elpv_dataset import utils
from PIL import Image

from tasks.data.units import HASH_BYTES, HASH_SIDE, NEAR, _near, components, perceptual_hash

Hashes = npt.NDArray[np.uint8]


@cache
def photos() -> tuple[Image.Image, ...]:
    """Every 65th of the 2,624 real photos of solar cells: 41, from all modules."""
    paths = sorted(Path(utils.__file__).parent.joinpath("data", "images").glob("*.png"))[::65]
    assert len(paths) > 40
    return tuple(Image.open(path).convert("RGB") for path in paths)


def resaved(photo: Image.Image) -> Image.Image:
    data = io.BytesIO()
    photo.save(data, "JPEG", quality=80)
    return Image.open(data).convert("RGB")


def halved(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BILINEAR)


def stretched(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width * 2, photo.height * 3 // 2), Image.Resampling.BICUBIC)


def hashes_of(pictures: list[Image.Image]) -> Hashes:
    return np.stack([perceptual_hash(picture) for picture in pictures])


def units_of(hashes: Hashes) -> list[int]:
    return components([str(i) for i in range(len(hashes))], [None] * len(hashes), hashes)


def test_a_hash_is_256_bits() -> None:
    looks = perceptual_hash(photos()[0])
    assert looks.dtype == np.uint8
    assert looks.shape == (HASH_BYTES,) == (32,)


def test_a_hash_is_nearly_imagehashs() -> None:
    """An independent implementation of the same idea; ours looks at a smaller picture."""
    distances = [
        int(np.bitwise_count(perceptual_hash(photo) ^ np.packbits(imagehash.phash(photo, HASH_SIDE).hash)).sum())
        for photo in photos()
    ]
    assert np.median(distances) <= 6
    assert max(distances) <= 24


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (40, 40), (3000, 7)])
def test_pictures_of_one_colour_look_the_same_whatever_their_size(size: tuple[int, int]) -> None:
    """The slow waves of a blank picture are rounding errors, which must not decide anything."""
    looks = [perceptual_hash(Image.new("RGB", size, colour)).tobytes() for colour in ("white", "#808080", "#010203")]
    assert len(set(looks)) == 1


def test_near_pairs_are_those_of_plain_comparison() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 256, (60, HASH_BYTES), dtype=np.uint8)
    near = np.repeat(hashes[:20], 3, axis=0)
    for row in near:
        for bit in random.choice(HASH_BYTES * 8, random.integers(0, 12), replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    every = np.concatenate([hashes, near, hashes[:5]])
    distance = np.bitwise_count(every[:, None] ^ every[None]).sum(axis=2)
    linked = {frozenset(pair) for pair in _near(every) if pair[0] != pair[1]}
    joined = components([str(i) for i in range(len(every))], [None] * len(every), every)
    for pair in linked:
        i, j = sorted(pair)
        assert distance[i, j] <= NEAR
    for i, j in np.argwhere(distance <= NEAR):
        assert joined[i] == joined[j]


def test_different_photos_are_different_units() -> None:
    assert units_of(hashes_of(list(photos()))) == list(range(len(photos())))


@pytest.mark.parametrize("change", [resaved, halved, stretched])
def test_changed_copies_join_their_originals(change: Callable[[Image.Image], Image.Image]) -> None:
    """The module's figures are 94 and 98 % of copies; here all but three of 41 must join, and none the wrong one."""
    copies = [change(photo) for photo in photos()]
    units = units_of(hashes_of([*photos(), *copies]))
    originals = range(len(photos()))
    joined = [units[len(photos()) + i] == i for i in originals]
    assert units[: len(photos())] == list(originals)
    assert sum(joined) >= len(photos()) - 3
    assert all(units[len(photos()) + i] in (i, len(photos()) + i) for i in originals)


def test_a_mirrored_photo_is_another_photo() -> None:
    mirrored = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photo in photos()]
    units = units_of(hashes_of([*photos(), *mirrored]))
    assert len(set(units)) == len(units)


def test_the_same_bytes_are_one_unit_whatever_their_look() -> None:
    far = np.stack([np.zeros(32, np.uint8), np.full(32, 255, np.uint8), np.arange(32, dtype=np.uint8)])
    assert components(["a", "b", "a"], [None, None, None], far) == [0, 1, 0]


def test_links_of_different_kinds_chain() -> None:
    """0 and 1 share bytes, 1 and 2 a group, 2 and 3 a look: one unit, named by its first picture."""
    looks = np.random.default_rng(0).integers(0, 256, (6, 32), dtype=np.uint8)
    looks[3] = looks[2]
    looks[3, 0] ^= 1
    groups = [None, "g", "g", None, None, "h"]
    assert components(["x", "x", "c", "d", "e", "f"], groups, looks) == [0, 0, 0, 0, 4, 5]
    assert components(["x", "x", "c", "d", "e", "f"], groups, None) == [0, 0, 0, 3, 4, 5]


def _planted(random: np.random.Generator) -> Hashes:
    """Random hashes, and copies of some with 0 to 12 bits flipped: on both sides of the limit."""
    base = random.integers(0, 256, (120, 32), dtype=np.uint8)
    copies = []
    for row in random.integers(0, len(base), 200):
        bits = np.unpackbits(base[row])
        bits[random.choice(256, random.integers(0, 13), replace=False)] ^= 1
        copies.append(np.packbits(bits))
    return random.permutation(np.concatenate([base, np.stack(copies)]))


def _brute_force(hashes: Hashes) -> set[tuple[int, int]]:
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    return {(int(i), int(j)) for i, j in np.argwhere(np.triu(distance <= NEAR, k=1))}


@pytest.mark.parametrize("seed", range(5))
def test_the_bands_connect_what_comparing_all_connects(seed: int) -> None:
    hashes = np.unique(_planted(np.random.default_rng(seed)), axis=0)
    expected = _brute_force(hashes)
    assert len(expected) > 100
    found = {(min(i, j), max(i, j)) for i, j in _near(hashes) if i != j}
    assert found <= expected
    names = [str(i) for i in range(len(hashes))]
    linked = [frozenset(pair) for pair in expected]
    units = components(names, [None] * len(names), hashes)
    assert all(units[i] == units[j] for i, j in linked)


def test_a_film_of_frames_that_look_alike_is_one_unit_in_time() -> None:
    """Each frame 3 bits from the one before, and many the same: every pair would be 8 million."""
    random = np.random.default_rng(0)
    bits = np.unpackbits(random.integers(0, 256, HASH_BYTES, dtype=np.uint8))
    frames = []
    for _ in range(4000):
        bits = bits.copy()
        bits[random.choice(32, 3, replace=False)] ^= 1
        frames.append(np.packbits(bits))
    began = time.perf_counter()
    assert set(units_of(np.stack(frames))) == {0}
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("seed", range(5))
def test_units_are_the_connected_components_of_all_near_pairs(seed: int) -> None:
    """With repeated hashes among them, against a plain flood fill."""
    hashes = _planted(np.random.default_rng(100 + seed))
    neighbours: dict[int, set[int]] = {i: set() for i in range(len(hashes))}
    for i, j in _brute_force(hashes):
        neighbours[i].add(j)
        neighbours[j].add(i)
    expected = [-1] * len(hashes)
    for start in range(len(hashes)):
        todo = [start] if expected[start] < 0 else []
        while todo:
            i = todo.pop()
            if expected[i] < 0:
                expected[i] = start
                todo += neighbours[i]
    assert units_of(hashes) == expected
