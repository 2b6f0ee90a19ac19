"""A prepared dataset: pictures decoded once, at the model's size, with labels, units and splits.

pixels.npy     uint8 [N, H, W, 3] RGB, 0-255
pictures.csv   path, digest (sha256 of the file), label, unit, split, one column a slice; row i belongs to pixels[i]
split.csv      digest, unit, split, group: the table that travels with the artifact, without paths
facts.csv, looks.npy   what the same pass saw of each picture: see `tasks.data.facts`
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.preprocess import Pixels

PIXELS = "pixels.npy"
PICTURES = "pictures.csv"
SPLIT = "split.csv"
SLICE = "slice:"  # before the column's name in pictures.csv
COLUMNS = ("path", "digest", "label", "unit", "split")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Names a complete dataset directory. `classes` are in the order of the model's outputs."""

    path: Path
    key: str
    name: str
    classes: tuple[str, ...]
    image_size: int
    resize: str
    grouped: bool  # the user gave groups: then they are the unit of every interval
    reused: bool
    slices: tuple[str, ...] = ()  # manifest columns that divide the pictures


@dataclass(frozen=True, slots=True)
class Slice:
    """A manifest column that divides the pictures, and its value for each of a subset's."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subset:
    """The rows of one split, in dataset order. `rows` index `pixels`; `labels` index `Dataset.classes`."""

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    digests: tuple[str, ...]
    units: tuple[str, ...]
    paths: tuple[Path, ...]
    slices: tuple[Slice, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


def pixels(dataset: Dataset) -> Pixels:
    """All pictures, uint8 [N, H, W, 3], mapped from disk: memory stays flat however many there are."""
    mapped: Pixels = np.load(dataset.path / PIXELS, mmap_mode="r")
    return mapped


def subset(dataset: Dataset, split: str) -> Subset:
    """One of train, validation, test."""
    rows = [(i, row) for i, row in enumerate(read_rows(dataset)) if row["split"] == split]
    return Subset(
        rows=np.array([i for i, _ in rows], np.int64),
        labels=np.array([dataset.classes.index(row["label"]) for _, row in rows], np.int64),
        digests=tuple(row["digest"] for _, row in rows),
        units=tuple(row["unit"] for _, row in rows),
        paths=tuple(Path(row["path"]) for _, row in rows),
        slices=tuple(Slice(column, tuple(row[SLICE + column] for _, row in rows)) for column in dataset.slices),
    )


def groups_of(dataset: Dataset, part: Subset) -> tuple[str, ...] | None:
    """Each picture's group where the user gave groups, which then are what is independent; else None."""
    return part.units if dataset.grouped else None


def read_rows(dataset: Dataset) -> tuple[dict[str, str], ...]:
    """pictures.csv, row by row."""
    return _rows(dataset.path / PICTURES)


@lru_cache(maxsize=2)
def _rows(path: Path) -> tuple[dict[str, str], ...]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return tuple(csv.DictReader(file))
