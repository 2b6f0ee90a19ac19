"""Copies of pictures as people make them: saved again, resized, cropped, brightened, mirrored, or several of these."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

CHANGES = ("saved", "resized", "cropped", "brighter", "mirrored")
# of 200 copies: each change alone, two at random, all five at once
KINDS = (*((change,) * 25 for change in CHANGES), ("two",) * 40, ("all",) * 35)


def kinds() -> tuple[str, ...]:
    """The 200 kinds, one a copy."""
    return tuple(kind for group in KINDS for kind in group)


def copy_of(image: Image.Image, kind: str, random: np.random.Generator) -> bytes:
    """A changed copy's bytes: JPEG at quality 30-90 where it is saved again, else PNG.

    Resized to 0.5-2 times, cropped by up to 5 % of width and of height (shared at random between the two sides),
    brightness times 0.9-1.1, mirrored left to right.
    """
    changes: Sequence[str] = (kind,)
    if kind in ("two", "all"):
        changes = [CHANGES[i] for i in sorted(random.permutation(len(CHANGES))[: 2 if kind == "two" else None])]
    if "cropped" in changes:
        cut = np.floor(random.uniform(0.01, 0.05, 2) * image.size)
        left, top = np.floor(random.uniform(0, 1, 2) * (cut + 1))
        image = image.crop((left, top, image.width - cut[0] + left, image.height - cut[1] + top))
    if "resized" in changes:
        factor = random.uniform(0.5, 2)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    if "brighter" in changes:
        image = ImageEnhance.Brightness(image).enhance(random.uniform(0.9, 1.1))
    if "mirrored" in changes:
        image = ImageOps.mirror(image)
    data = io.BytesIO()
    if "saved" in changes:
        image.save(data, "JPEG", quality=int(random.integers(30, 91)))
    else:
        image.save(data, "PNG")
    return data.getvalue()


def plant(pictures: Sequence[Path], place: Path, seed: int) -> list[tuple[Path, Path, str]]:
    """Writes a copy of 200 of the pictures, drawn by the seed. Each: the picture, its copy, the kind of change."""
    random = np.random.default_rng(seed)
    place.mkdir(parents=True, exist_ok=True)
    made = []
    for number, (row, kind) in enumerate(zip(random.permutation(len(pictures))[: len(kinds())], kinds(), strict=True)):
        with Image.open(pictures[row]) as image:
            data = copy_of(image.convert("RGB"), kind, random)
        suffix = "jpg" if data.startswith(b"\xff\xd8") else "png"
        copy = place / f"{number:03}-{kind}.{suffix}"
        copy.write_bytes(data)
        made.append((pictures[row], copy, kind))
    return made
