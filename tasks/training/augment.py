"""Augmentation as operations on whole batches, a different draw for every picture.

Each draw depends on (seed, epoch, picture) only: not on batch order, batch size or thread count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DRAWS = 8  # uniform numbers a picture gets each epoch
_ZOOM = 0.2  # natural: at least 80 % of each side stays in view
_LIGHT = 0.15


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
        return _where(draw[:, 2] < 0.5, pixels.transpose(1, 2), pixels)
    return _light(_zoom(pixels.float(), draw), draw).clamp(0, 255)


def _where(chosen: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), changed, same)


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
