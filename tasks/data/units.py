"""Units: sets of pictures that must not be torn apart by a split, because one gives away the other.

A unit is a connected component of "same group", "same bytes" and "same look". Looks are compared by a 256-bit
perceptual hash (ImageHash's pHash, 16 x 16): re-saved as JPEG at quality 80 or halved in size, 99 % of the demo's
photos stay within 8 bits of the original, while 22 of its 3.4 million pairs of different photos come that near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

HASH_SIDE = 16
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
NEAR = 8  # bits of 256
_BANDS = NEAR + 1  # two hashes within NEAR bits agree in at least one of NEAR + 1 bands


def perceptual_hash(image: Image.Image) -> npt.NDArray[np.uint8]:
    """256 bits as uint8 [32]."""
    return np.packbits(imagehash.phash(image, hash_size=HASH_SIDE).hash.ravel())


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
    """Pairs of hashes within NEAR bits, by the pigeonhole principle: only those that share a band are compared."""
    unique, inverse = np.unique(hashes, axis=0, return_inverse=True)
    yield from _equal([str(i) for i in inverse.ravel()])
    first = {int(u): i for i, u in reversed(list(enumerate(inverse.ravel())))}
    bits = np.unpackbits(unique, axis=1)
    for columns in np.array_split(np.arange(bits.shape[1]), _BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for i, key in enumerate(np.packbits(bits[:, columns], axis=1)):
            buckets[key.tobytes()].append(i)
        for members in buckets.values():
            for position, i in enumerate(members[:-1]):
                others = np.array(members[position + 1 :])
                distance = np.bitwise_count(unique[others] ^ unique[i]).sum(axis=1)
                for j in others[distance <= NEAR]:
                    yield first[i], first[int(j)]
