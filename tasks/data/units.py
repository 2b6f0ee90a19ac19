"""Units: sets of pictures that must not be torn apart by a split, because one gives away the other.

A unit is a connected component of "same group", "same bytes" and "same look". Looks are compared by a 256-bit
perceptual hash, 16 x 16 as ImageHash's pHash but of the luminance at 128 x 128, which costs half as much. Of the
demo's photos 94 % re-saved as JPEG at quality 80 and 98 % halved in size stay within 8 bits of the original,
while 24 of the 3.4 million pairs of different photos come that near.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from PIL import Image

HASH_SIDE = 16
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
NEAR = 8  # bits of 256
GREY_SIDE = 128
# the first rows of the discrete cosine transform (type II) over 64 samples: the others are not looked at
_WAVES = 2 * np.cos(np.pi / 64 * np.outer(np.arange(HASH_SIDE), np.arange(64) + 0.5))
_BANDS = NEAR + 1  # two hashes within NEAR bits agree in at least one of NEAR + 1 bands


def small_grey(image: Image.Image) -> Image.Image:
    """Luminance stretched to 128 x 128. The gap lets most of a large picture be averaged by whole numbers: cheaper."""
    return image.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.1)


def perceptual_hash(image: Image.Image) -> npt.NDArray[np.uint8]:
    """256 bits as uint8 [32]: which of the 16 x 16 slowest waves of the picture are above their median."""
    return hash_grey(small_grey(image))


def hash_grey(grey: Image.Image) -> npt.NDArray[np.uint8]:
    """`perceptual_hash` of what `small_grey` gave."""
    values = np.asarray(grey.reduce(2), np.float64)
    # rounded, so that another processor's last digits decide nothing: a blank picture's waves are all zero
    waves = np.round(_WAVES @ values @ _WAVES.T, 3).ravel()
    return np.packbits(waves > np.median(waves))


def components(digests: Sequence[str], groups: Sequence[str | None], hashes: npt.NDArray[np.uint8] | None) -> list[int]:
    """For each picture the index of its unit's first picture. `hashes`: uint8 [N, 32], or None to ignore looks.

    >>> components(["a", "b", "a", "c"], [None, "g", None, "g"], None)
    [0, 1, 0, 1]
    """
    parent = list(range(len(digests)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in chain(_equal(digests), _equal(groups), () if hashes is None else _near(hashes)):
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    return [root(i) for i in range(len(digests))]


def _equal(values: Sequence[str | None]) -> Iterable[tuple[int, int]]:
    """Pairs that link all positions of equal values; None equals nothing."""
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value is not None:
            yield first.setdefault(value, i), i


def _near(hashes: npt.NDArray[np.uint8]) -> Iterable[tuple[int, int]]:
    """Pairs of hashes within NEAR bits that connect all such, by the pigeonhole principle: only those that share a
    band are compared. Of a thousand frames of one film not each pair is told, only a chain through all.
    """
    unique, inverse = np.unique(hashes, axis=0, return_inverse=True)
    yield from _equal([str(i) for i in inverse.ravel()])
    first = {int(u): i for i, u in reversed(list(enumerate(inverse.ravel())))}
    bits = np.unpackbits(unique, axis=1)
    for columns in np.array_split(np.arange(bits.shape[1]), _BANDS):
        for members in _alike(bits[:, columns] @ (1 << np.arange(len(columns)))):
            for i, j in _chains(unique[members]):
                yield first[int(members[i])], first[int(members[j])]


def _chains(hashes: npt.NDArray[np.uint8]) -> Iterable[tuple[int, int]]:
    """Near pairs that connect whatever near pairs connect: in each set one less than it has members."""
    left = np.arange(len(hashes))
    while len(left) > 1:
        waiting, left = [int(left[0])], left[1:]
        while waiting and len(left):
            i = waiting.pop()
            near = np.bitwise_count(hashes[left] ^ hashes[i]).sum(axis=1) <= NEAR
            for j in left[near].tolist():
                waiting.append(j)
                yield i, j
            left = left[~near]


def _alike(keys: npt.NDArray[np.int64]) -> Iterable[npt.NDArray[np.int64]]:
    """The positions of each set of two or more equal keys."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if end - start > 1:
            yield order[start:end]
