"""The same dataset without the rows that must not be learnt from."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import sealed
from tasks.data.dataset import PICTURES, SPLIT, Dataset

LEFT_OUT = "left_out"  # in the column split of pictures.csv: the rows stay, so that arrays and features fit
_FORMAT = 1


def without(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The dataset with `rows` in no split; itself where there are none.

    Writes a directory beside the dataset's own: pictures.csv and split.csv anew, all else the same files (links).
    """
    if not rows:
        return dataset
    with (dataset.path / PICTURES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns, pictures = list(reader.fieldnames or ()), list(reader)
    gone = {pictures[row]["digest"] for row in rows}
    key = sealed.digest_of([_FORMAT, dataset.key, sorted(rows)])[:16]
    place = dataset.path.with_name(f"{dataset.path.name}-{key}")
    if sealed.about(place) is None:
        for row in rows:
            pictures[row]["split"] = LEFT_OUT
        with sealed.sealing(place, _about(dataset, key, pictures)) as directory:
            _link_all(dataset.path, directory)
            with (directory / PICTURES).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(pictures)
            _write_table(dataset.path / SPLIT, directory / SPLIT, gone)
    return replace(dataset, path=place, key=key)


def keys_of(dataset: Dataset) -> set[str]:
    """The key of a prepared dataset, and those of what was made of it by leaving rows out."""
    found = {dataset.key}
    for place in dataset.path.parent.glob(f"{dataset.path.name}-*"):
        about = sealed.about(place) or {}
        if about.get("prepared") == dataset.key:
            found.add(str(about["key"]))
    return found


def _about(dataset: Dataset, key: str, pictures: Sequence[dict[str, str]]) -> dict[str, Any]:
    about = dict(sealed.about(dataset.path) or {})
    del about["schema"], about["files"]
    kept = [row for row in pictures if row["split"] != LEFT_OUT]
    counts = Counter((row["split"], row["label"]) for row in kept)
    splits = sorted({row["split"] for row in kept})
    about["counts"] = {s: {label: counts[s, label] for label in dataset.classes if counts[s, label]} for s in splits}
    about["units"] = len({row["unit"] for row in kept})
    return about | {"key": key, "prepared": dataset.key}


def _link_all(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name in (PICTURES, SPLIT, sealed.MANIFEST) or not path.is_file():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:  # a file system without links
            shutil.copyfile(path, target / path.name)


def _write_table(source: Path, target: Path, gone: set[str]) -> None:
    """The table that travels with the artifact names what was learnt from."""
    with source.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row["digest"] not in gone)
