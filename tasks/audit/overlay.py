"""Laying one picture over another: is it the same one, saved again, resized, cropped, brightened or mirrored?

Both are made small, grey and a little blurred. Scale and shift of each axis are fitted by Gauss-Newton steps (Lucas &
Kanade 1981, in the inverse compositional form of Baker & Matthews 2004), with the brightness that fits best. What is
left of the difference tells: of a copy next to nothing, of another picture of a like thing its noise and its shading.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from serving.preprocess import Pixels

SIDE = 64  # pixels of the small copies
_COARSE = 24  # of those that are laid over each other first
_NEAR = 0.2  # a coarse difference above it is another picture's: 4 times that of any copy seen
_STEPS = 8
_RIM = 3  # pixels: what a copy lost at its rims has been blurred into them
_PER_PIXEL = 0.11  # as much difference as everything shifted by a pixel makes
_GAINS = (0.5, 2.0)  # contrast of a copy; with a gain of 0 every picture would fit a blank one
_BRIGHT = 249  # above, brightness was cut off
_AT_ONCE = 128  # pairs: more are slower, memory that large is taken anew each time
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def small_copies(pictures: Pixels) -> Floats:
    """float32 [N, SIDE, SIDE], grey 0-255, of uint8 [N, H, W, 3]; reads a part at a time."""
    parts = [np.empty((0, SIDE, SIDE), np.float32)]
    for start in range(0, len(pictures), _AT_ONCE):
        part = pictures[start : start + _AT_ONCE]
        grey = (part[..., 0].astype(np.float32) + part[..., 1] + part[..., 2]) / 3  # a third of the time of mean()
        parts.append(_resized(torch.from_numpy(grey)[:, None], SIDE)[:, 0].numpy())
    return np.concatenate(parts)


def differences(copies: Floats, pairs: Ints, mirrored: Bools) -> Floats:
    """What is left of each pair of rows [P, 2] laid over each other, the second `mirrored` [P] or not.

    As a share of the picture's own spread: 0 for one and the same, about 1 for unlike ones.
    """
    found = np.ones(len(pairs), np.float32)
    with torch.inference_mode():
        for start in range(0, len(pairs), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            first, second = (torch.from_numpy(copies[pairs[part, i]])[:, None] for i in (0, 1))
            second = torch.where(torch.from_numpy(mirrored[part])[:, None, None, None], second.flip(3), second)
            found[part] = _difference(first, second).numpy()
    return found


def _difference(first: Tensor, second: Tensor) -> Tensor:
    same = torch.tensor([1.0, 0.0, 1.0, 0.0]).repeat(len(first), 1)  # scale and shift across, then down
    a, b = (_blurred(_resized(part, _COARSE)) for part in (first, second))
    place = _fitted(a, b, same)
    found = _left(a, b, place)
    close = torch.nonzero(found <= _NEAR)[:, 0]
    if len(close):
        a, b = (_blurred(part[close]) for part in (first, second))
        there = place[close]
        # both ways: a crop lies wholly within its original, which reaches beyond it
        ways = (_left(a, b, _fitted(a, b, there)), _left(b, a, _fitted(b, a, _inverse(there))))
        found[close] = torch.minimum(*ways)
    return found


def _inverse(place: Tensor) -> Tensor:
    scale, shift = place[:, 0::2], place[:, 1::2]
    return torch.stack([1 / scale, -shift / scale], 2).flatten(1)


def _resized(pictures: Tensor, side: int) -> Tensor:
    # not mode="area": where the sides do not divide, its windows lie up to half a pixel off
    return functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def _blurred(pictures: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))


def _fitted(first: Tensor, second: Tensor, place: Tensor) -> Tensor:
    """`place` improved: where in the second, in coordinates -1 ... 1, each pixel of the first lies."""
    side = first.shape[-1]
    axis = _axis(side)
    down, across = torch.gradient(first[:, 0], spacing=2 / side, dim=(1, 2))
    steepest = torch.stack([across * axis, across, down * axis[:, None], down], 1).flatten(2)
    hessian = steepest @ steepest.mT
    hessian += 1e-3 * torch.diag_embed(hessian.diagonal(dim1=1, dim2=2)) + torch.eye(4)
    for _ in range(_STEPS):
        error = -_rest(first, *_laid(second, place))[0]
        step = torch.linalg.solve(hessian, steepest @ error.flatten(1)[:, :, None])[:, :, 0].clamp(-0.1, 0.1)
        scale = (place[:, 0::2] / (1 + step[:, 0::2])).clamp(0.85, 1.18)  # composed with the inverse of the step
        shift = (place[:, 1::2] - scale * step[:, 1::2]).clamp(-0.15, 0.15)
        place = torch.stack([scale, shift], 2).flatten(1)
    return place


def _left(first: Tensor, second: Tensor, place: Tensor) -> Tensor:
    """What is left, as `differences` gives it; the larger of two, since each is blind to something.

    The median where the picture is even, against the spread there: no shift of a thousandth counts, but an empty
    background always agrees. The root mean square everywhere, against the slopes: it sees what is drawn on it.
    """
    laid, inside = _laid(second, place, "bicubic")
    rest, _ = _rest(first, laid, inside)
    steep = torch.stack(torch.gradient(first[:, 0], dim=(1, 2))).square().sum(0)[:, None] * inside
    shift = (rest.square().sum((1, 2, 3)) / steep.sum((1, 2, 3)).clamp_min(1e-3)).sqrt()  # in pixels
    inside = inside * ((first < _BRIGHT) & (laid < _BRIGHT))
    rest, own = _rest(first, laid, inside)
    slopes = torch.stack(torch.gradient(first[:, 0], dim=(1, 2))).square().sum(0).sqrt()
    limit = 1.5 * slopes.flatten(1).median(1).values[:, None, None]
    even = (slopes <= limit) & (inside[:, 0] > 0)
    spread = ((own[:, 0].square() * even).sum((1, 2)) / even.sum((1, 2)).clamp_min(1)).sqrt()
    missing = torch.where(even, rest[:, 0].abs(), torch.nan).flatten(1).nanmedian(1).values
    share = torch.nan_to_num(missing / spread.clamp_min(1.0), nan=1.0)
    share = torch.where(inside.flatten(1).any(1), share, 0.0)  # all white: what is left everywhere decides alone
    return torch.maximum(share, _PER_PIXEL * shift).clamp_max(1.0)


def _laid(second: Tensor, place: Tensor, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
    """The second picture as the first one's pixels see it, and where both reach: 1, else 0."""
    side = second.shape[-1]
    axis = _axis(side)
    across = place[:, 0:1] * axis + place[:, 1:2]
    down = place[:, 2:3] * axis + place[:, 3:4]
    grid = torch.stack([across[:, None, :].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], 3)
    reach = 1 - 2 * _RIM / side
    own = axis.abs() <= reach
    inside = ((across.abs() <= reach) & own)[:, None, :] & ((down.abs() <= reach) & own)[:, :, None]
    return functional.grid_sample(second, grid, mode, "border", align_corners=False), inside[:, None].float()


def _rest(first: Tensor, laid: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """First minus second, after the gain and offset that fit best; and the first around its mean."""
    a, b = _centred(first, inside), _centred(laid, inside)
    gain = (a * b).sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return a - gain.clamp(*_GAINS) * b, a


def _centred(values: Tensor, inside: Tensor) -> Tensor:
    mean = (values * inside).sum((1, 2, 3), keepdim=True) / inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
    return (values - mean) * inside


def _axis(side: int) -> Tensor:
    return (2 * torch.arange(side) + 1) / side - 1
