"""Near duplicates: which pictures are one picture, whatever was done to one of them.

Candidates are each picture's nearest, by how it looks (also mirrored, and also with 3 % cut off) and by the backbone's
features. Both are whitened over these very pictures (PCA: Jegou & Chum 2012), so that what all of them share, the frame
of a cell or the belt under a bottle, counts for nothing. A candidate is confirmed by laying one picture over the other,
and must lie nearer than this folder's unlike pictures lie to each other. docs/audit.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from serving.preprocess import Pixels
from tasks.audit.overlay import Bools, Floats, Ints, differences, small_copies

SAME = 0.045  # of `differences`: chosen on copies of photos of solar cells, with seeds that judge nothing
SURE = 0.02  # below it no folder is so alike that the calibration may doubt
_LOOK, _LOOK_SIZE, _FEATURE_SIZE = 16, 128, 128  # pixels of a look; values kept of a look, of the features
_BY_LOOK, _BY_FEATURES = 4, 2  # candidates of each picture
_CUTS = (0, 1, 2)  # of SIDE pixels, on the one side; 2 minus it on the other
_MANY = 20_000  # pictures: above, cropped copies are not searched for, which costs their square
_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Copy:
    """Two rows, first < second. `difference` 0 ... SAME: see `overlay.differences`."""

    first: int
    second: int
    difference: float
    mirrored: bool


def find_copies(pictures: Pixels, features: npt.NDArray[np.float32]) -> tuple[Copy, ...]:
    """Pairs of near duplicates, the surest first. `pictures` uint8 [N, H, W, 3], `features` float32 [N, F]."""
    if len(pictures) < 3:
        return ()
    small = small_copies(pictures)
    pairs, mirrored = _candidates(small, np.asarray(features))
    found = differences(small, pairs, mirrored)
    limit = calibrated(found, pairs, len(small))
    copies = [
        Copy(int(i), int(j), float(difference), bool(turned))
        for (i, j), difference, turned in zip(pairs, found, mirrored, strict=True)
        if difference <= limit
    ]
    return tuple(sorted(copies, key=lambda copy: (copy.difference, copy.first, copy.second)))


def calibrated(found: Floats, pairs: Ints, count: int) -> float:
    """The largest difference that still means a copy, in a folder of `count` pictures.

    A picture's least like candidate is hardly ever a copy of it. Where even these are alike, as icons are or frames of
    one film, one in a hundred of them is where copies end, but not below `SURE`.
    """
    if not len(found):
        return SAME
    worst = np.zeros(count, np.float32)
    for column in (0, 1):
        np.maximum.at(worst, pairs[:, column], found)
    return float(np.clip(np.quantile(worst, 0.01), SURE, SAME))


def _candidates(small: Floats, features: Floats) -> tuple[Ints, Bools]:
    """Pairs of rows [P, 2], first < second, each once; and whether the second looks like the first mirrored."""
    looks, variants = _looks(small)
    whitened = _unit(_basis(features, _FEATURE_SIZE), features)
    chosen: dict[tuple[int, int], bool] = {}
    for start in range(0, len(small), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(small)))
        straight, turned = (_most_alike(looks, kind, rows) for kind in (variants[0::2], variants[1::2]))
        near = [(np.maximum(straight, turned), _BY_LOOK), (whitened[rows] @ whitened.T, _BY_FEATURES)]
        for likeness, wanted in near:
            most = min(wanted, len(small) - 1)
            likeness[np.arange(len(rows)), rows] = -np.inf
            best = np.argpartition(-likeness, most - 1, axis=1)[:, :most]
            for at, others in enumerate(best):
                for j in others:
                    pair = (min(int(rows[at]), int(j)), max(int(rows[at]), int(j)))
                    chosen.setdefault(pair, bool(turned[at, j] > straight[at, j]))
    ordered = sorted(chosen)
    return np.array(ordered, np.int64).reshape(-1, 2), np.array([chosen[pair] for pair in ordered], bool)


def _most_alike(looks: Floats, kind: Sequence[Floats], rows: Ints) -> Floats:
    """Of each of `rows`, [n, N]: its best of all kinds. One matrix at a time: ten of them would be a gigabyte."""
    best: Floats = kind[0][rows] @ looks.T
    for queries in kind[1:]:
        np.maximum(best, queries[rows] @ looks.T, out=best)
    return best


def _looks(small: Floats) -> tuple[Floats, list[Floats]]:
    """What is searched [N, d], and what is searched for: each as it is and mirrored in turn, then with rims cut off."""
    whole = torch.from_numpy(small)[:, None]
    side = whole.shape[-1]
    cuts = [(2 - a, a, 2 - b, b) for a in _CUTS for b in _CUTS] if len(small) <= _MANY else []
    parts = [whole, *(whole[:, :, up : side - down, left : side - right] for left, right, up, down in cuts)]
    views = [_look(view) for part in parts for view in (part, part.flip(3))]
    basis = _basis(np.concatenate(views[:2]), _LOOK_SIZE)
    whitened = [_unit(basis, view) for view in views]
    return whitened[0], whitened


def _look(pictures: Tensor) -> Floats:
    """Brightness and contrast taken out: float32 [n, _LOOK * _LOOK]."""
    tiny = functional.interpolate(pictures, (_LOOK, _LOOK), mode="bilinear", antialias=True).flatten(1)
    tiny = tiny - tiny.mean(1, keepdim=True)
    found: Floats = (tiny / tiny.std(1, keepdim=True).clamp_min(1e-3)).numpy()
    return found


def _basis(values: Floats, size: int) -> Any:
    # with as many components as pictures every picture would be as far from every other, copies too
    size = max(1, min(size, len(values) // 4, values.shape[1]))
    return PCA(size, whiten=True, svd_solver="randomized", random_state=0).fit(values)


def _unit(basis: Any, values: Floats) -> Floats:
    """Unit vectors [n, d]: `values` in whitened principal components."""
    found = basis.transform(values)
    unit: Floats = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
