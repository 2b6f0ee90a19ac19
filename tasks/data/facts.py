"""What one look at a picture tells about it, kept beside the arrays: size, kind, light, sharpness and look.

facts.csv   width, height (pixels, upright), bytes, mode, format, brightness, contrast, sharpness: row i is of pixels[i]
looks.npy   uint8 [N, 32]: the perceptual hash of the upright picture, row i is of pixels[i]
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.preprocess import Decoded
from tasks.data.dataset import Dataset, read_rows
from tasks.data.units import GREY_SIDE, HASH_BYTES, hash_grey, small_grey

FACTS = "facts.csv"
LOOKS = "looks.npy"
SIDE = GREY_SIDE  # light and sharpness are measured at this size, whatever the model's: another model, the same facts
_COLUMNS = ("width", "height", "bytes", "mode", "format", "brightness", "contrast", "sharpness")


@dataclass(frozen=True, slots=True)
class Fact:
    """Of one picture: see `Facts`. `look` is the hash's 32 bytes."""

    width: int
    height: int
    size: int
    mode: str
    format: str
    brightness: float
    contrast: float
    sharpness: float
    look: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """Of all pictures of a dataset, row by row as in `pixels` and pictures.csv.

    `widths`, `heights`: pixels of the upright file; `sizes`: bytes of the file; `modes`, `formats`: Pillow's names,
    e.g. `RGB`, `JPEG`. `brightness` is the mean and `contrast` the standard deviation of the luminance, 0-255, and
    `sharpness` the variance of its 4-neighbour Laplacian, all of the picture stretched to 128 x 128. `looks`: uint8
    [N, 32], the perceptual hash.
    `labels` index `Dataset.classes`; `splits` are train, validation or test.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    units: tuple[str, ...]
    splits: tuple[str, ...]
    widths: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    modes: tuple[str, ...]
    formats: tuple[str, ...]
    brightness: npt.NDArray[np.float64]
    contrast: npt.NDArray[np.float64]
    sharpness: npt.NDArray[np.float64]
    looks: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.paths)


def facts(dataset: Dataset) -> Facts:
    """What `prepare` noted of each picture. Reads no picture."""
    rows = read_rows(dataset)
    with (dataset.path / FACTS).open(newline="", encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    label = {name: i for i, name in enumerate(dataset.classes)}
    whole = {name: np.array([int(row[name]) for row in told], np.int64) for name in ("width", "height", "bytes")}
    real = {name: np.array([float(row[name]) for row in told]) for name in ("brightness", "contrast", "sharpness")}
    return Facts(
        paths=tuple(Path(row["path"]) for row in rows),
        digests=tuple(row["digest"] for row in rows),
        labels=np.array([label[row["label"]] for row in rows], np.int64),
        units=tuple(row["unit"] for row in rows),
        splits=tuple(row["split"] for row in rows),
        widths=whole["width"],
        heights=whole["height"],
        sizes=whole["bytes"],
        modes=tuple(row["mode"] for row in told),
        formats=tuple(row["format"] for row in told),
        looks=np.load(dataset.path / LOOKS),
        **real,
    )


def measure(picture: Decoded, size: int) -> Fact:
    """`size`: bytes of the file."""
    grey = small_grey(picture.image)
    light = np.asarray(grey, np.float32)
    around = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    brightness, contrast = _moments(light)
    _, sharpness = _moments(around - 4 * light[1:-1, 1:-1])
    return Fact(
        picture.width,
        picture.height,
        size,
        picture.mode,
        picture.format,
        round(brightness, 3),
        round(contrast, 3),
        round(sharpness**2, 3),
        hash_grey(grey).tobytes(),
    )


def _moments(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation; numpy's own take four times as long on arrays as small as these."""
    flat = values.ravel()
    mean = float(flat.sum(dtype=np.float64)) / len(flat)
    flat = flat - np.float32(mean)
    return mean, math.sqrt(float(flat @ flat) / len(flat))


def write_facts(directory: Path, rows: Sequence[Fact]) -> None:
    """Writes facts.csv and looks.npy."""
    with (directory / FACTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for one in rows:
            light = (one.brightness, one.contrast, one.sharpness)
            writer.writerow((one.width, one.height, one.size, one.mode, one.format, *light))
    np.save(directory / LOOKS, looks_of(rows))


def looks_of(rows: Sequence[Fact]) -> npt.NDArray[np.uint8]:
    """uint8 [N, 32]."""
    return np.frombuffer(b"".join(one.look for one in rows), np.uint8).reshape(-1, HASH_BYTES)
