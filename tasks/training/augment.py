"""Augmentation as operations on whole batches, a different draw for every picture.

Each draw depends on (seed, epoch, picture) only: not on batch order, batch size or thread count. Mixing pictures, which
depends on the batch, draws from (seed, epoch, step).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]

DRAWS = 8  # uniform numbers a picture gets each epoch
_ZOOM = 0.2  # natural: at least 80 % of each side stays in view
_LIGHT = 0.15
_GREY = 0.2  # industrial: the share of pictures without their colours, so that a lamp's tint is not what is learnt
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601, as Pillow's mode L)


def draws(seed: int, epoch: int, pictures: int) -> npt.NDArray[np.float32]:
    """Uniform [0, 1) numbers, float32 [pictures, DRAWS]; row i belongs to picture i."""
    return np.random.default_rng((seed, epoch)).random((pictures, DRAWS), dtype=np.float32)


def augment(pixels: Tensor, draw: Tensor, preset: str) -> Tensor:
    """uint8 [N, H, W, 3] -> the same shape, 0-255 (float32 where light or zoom changed it).

    `draw`: float32 [N, DRAWS]. `preset`: natural, industrial or none.
    """
    if preset == "none":
        return pixels
    pixels = _where(draw[:, 0] < 0.5, pixels.flip(2), pixels)
    if preset == "industrial":
        pixels = _where(draw[:, 1] < 0.5, pixels.flip(1), pixels)
        pixels = _where(draw[:, 2] < 0.5, pixels.transpose(1, 2), pixels)
        return _where(draw[:, 3] < _GREY, _grey(pixels), pixels)
    return _light(_zoom(pixels.float(), draw), draw).clamp(0, 255)


def _where(chosen: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), changed, same)


def _grey(pixels: Tensor) -> Tensor:
    light = (pixels.float() * torch.tensor(_LUMINANCE, device=pixels.device)).sum(3, keepdim=True)
    return light.round().to(pixels.dtype).expand_as(pixels)


def _zoom(pixels: Tensor, draw: Tensor) -> Tensor:
    """A window of 80-100 % of each side, anywhere, stretched back to full size."""
    scale = 1 - _ZOOM * draw[:, 3]
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2] = (1 - scale) * (2 * draw[:, 4] - 1)
    theta[:, 1, 2] = (1 - scale) * (2 * draw[:, 5] - 1)
    images = pixels.permute(0, 3, 1, 2)
    grid = torch.nn.functional.affine_grid(theta.to(pixels.device), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False, padding_mode="reflection").permute(
        0, 2, 3, 1
    )


def _light(pixels: Tensor, draw: Tensor) -> Tensor:
    """Contrast and brightness, each within 15 %."""
    contrast = (1 + _LIGHT * (2 * draw[:, 6] - 1)).view(-1, 1, 1, 1)
    brightness = (255 * _LIGHT * (2 * draw[:, 7] - 1)).view(-1, 1, 1, 1)
    return (pixels - 127.5) * contrast + 127.5 + brightness


def mix(pixels: Tensor, targets: Tensor, seed: tuple[int, int, int], mixup: float, cutmix: float) -> Pair:
    """Each picture blended with, or given a window of, a random partner in the batch; the targets likewise.

    `pixels` [N, H, W, 3]; `targets` shares float [N, C]. The share of each is drawn from Beta(a, a), `a` being `mixup`
    (Zhang et al. 2018) or `cutmix` (Yun et al. 2019), of which a batch gets one at random where both are above 0. The
    partners are a permutation, drawn because a batch may be in the order of its classes. The pixels come back float32
    from a blend. `seed` is (seed, epoch, step).
    """
    random = np.random.default_rng((*seed, 2))
    partner = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
    others = pixels[partner]
    cuts = cutmix > 0 and (mixup == 0 or random.random() < 0.5)
    shape = cutmix if cuts else mixup
    share = torch.from_numpy(random.beta(shape, shape, len(pixels)).astype(np.float32)).to(pixels.device)
    if cuts:
        corner = torch.from_numpy(random.random((len(pixels), 2), dtype=np.float32)).to(pixels.device)
        inside = _windows(pixels.shape[1], pixels.shape[2], (1 - share).sqrt(), corner)
        mixed = torch.where(inside.unsqueeze(-1), others, pixels)
        share = 1 - inside.float().mean((1, 2))  # what the window really covers
    else:
        whole = pixels.float()
        mixed = whole + (1 - share).view(-1, 1, 1, 1) * (others.float() - whole)
    weight = share.view(-1, 1)
    return mixed, weight * targets + (1 - weight) * targets[partner]


def _windows(height: int, width: int, side: Tensor, corner: Tensor) -> Tensor:
    """bool [N, H, W]: rectangles of `side` [N] of each side, wholly inside, at `corner` [N, 2], both in [0, 1)."""
    covers = []
    for axis, length in enumerate((height, width)):
        first = corner[:, axis] * (1 - side) * length
        places = torch.arange(length, device=side.device) + 0.5
        covers.append((places >= first.view(-1, 1)) & (places < (first + side * length).view(-1, 1)))
    return covers[0].unsqueeze(2) & covers[1].unsqueeze(1)
