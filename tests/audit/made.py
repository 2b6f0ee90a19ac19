"""Pictures of one kind that a person would call alike, and copies of them: seeded, and cheap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from serving.preprocess import Pixels


def texture(seed: int, side: int = 120) -> Image.Image:
    """A framed plate with a texture of its own, as solar cells are."""
    draw = np.random.default_rng(seed)
    noise = draw.normal(128, 60, (side, side)).clip(0, 255).astype(np.uint8)
    grey = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6)), np.float64)
    grey = 128 + (grey - grey.mean()) * 9
    grey[::40] -= 60  # bars that all plates have
    grey[:4] = grey[-4:] = grey[:, :4] = 20
    grey[:, -4:] = 20
    return Image.fromarray(grey.clip(0, 245).astype(np.uint8)).convert("RGB")


def as_pixels(images: list[Image.Image], side: int = 96) -> Pixels:
    found: Pixels = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images])
    return found


def write_plates(folder: Path, classes: int = 2, each: int = 24) -> Path:
    """Class folders c0, c1, ... of plates that are all different; another class is darker by a little."""
    for label in range(classes):
        place = folder / f"c{label}"
        place.mkdir(parents=True)
        for i in range(each):
            texture(1000 * label + i).point(lambda v, dim=1 - 0.25 * label: v * dim).save(place / f"{i:03}.png")
    return folder
