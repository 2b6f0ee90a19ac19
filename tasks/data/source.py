"""Which pictures there are, with their labels: class folders, or a CSV manifest."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import BadInput
from tasks.data.spec import DataSpec

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# the last row are kinds we name when we refuse them; anything else is not meant as a picture
_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp"}
_SUFFIXES |= {".tif", ".tiff", ".heic", ".heif", ".avif", ".svg", ".pdf"}


@dataclass(frozen=True, slots=True)
class Source:
    """One picture as the user gave it. `relative` is its path as written; `split` only where the user gave one."""

    path: Path
    relative: str
    label: str
    group: str | None
    split: str | None
    slices: tuple[str, ...] = ()  # this picture's value of each of `DataSpec.slices`


def find_pictures(spec: DataSpec) -> tuple[Source, ...]:
    """Every picture of the root, in a stable order. Reads names only.

    Raises BadInput: no such root, no pictures, fewer than two classes, a manifest that does not fit.
    """
    root = spec.root.expanduser()
    if root.is_file():
        sources = tuple(_from_manifest(root, spec))
    elif root.is_dir():
        _check_no_slices(root, spec.slices)
        sources = tuple(_from_folders(root, spec.group_by))
    else:
        raise BadInput(f"expected a folder or a CSV manifest at {root}, found nothing there: check data.root")
    classes = sorted({source.label for source in sources})
    if not sources:
        where = f"in one folder per class under {root}" if root.is_dir() else f"in {root}, one a row"
        raise BadInput(f"expected pictures {where}, found none: see data.root")
    if "overall" in classes:
        raise BadInput(
            "expected class names other than `overall`, which the gate's lines use for all classes: rename it"
        )
    if any(not _is_text(label) for label in classes):
        raise BadInput(f"expected class folders with names in UTF-8 under {root}, found another encoding: rename them")
    if len(classes) < 2:
        raise BadInput(f"expected two or more classes in {root}, found one ({classes[0]!r}): add the other classes")
    return tuple(sorted(sources, key=lambda source: source.relative))


def _from_folders(root: Path, group_by: str | None) -> Iterator[Source]:
    top = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    given = {name: _SPLIT_NAMES[name.lower()] for name in top if name.lower() in _SPLIT_NAMES}
    if not given:
        yield from _class_folders(root, root, top, None, group_by)
        return
    if len(given) != len(top) or sorted(given.values()) != sorted(SPLITS):
        raise BadInput(
            f"expected under {root} either class folders or exactly train/, validation/ and test/, "
            f"found {', '.join(top)}: rename or complete them"
        )
    for folder, split in given.items():
        inner = sorted(e.name for e in (root / folder).iterdir() if e.is_dir() and not e.name.startswith("."))
        yield from _class_folders(root, root / folder, inner, split, group_by)


def _class_folders(
    root: Path, parent: Path, labels: list[str], split: str | None, group_by: str | None
) -> Iterator[Source]:
    for label in labels:
        for directory, folders, files in os.walk(parent / label):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for file in files:
                path = Path(directory, file)
                if not file.startswith(".") and path.suffix.lower() in _SUFFIXES and path.is_file():
                    relative = path.relative_to(root).as_posix()
                    yield Source(path, relative, label, _group(relative, {}, group_by), split)


def _check_no_slices(root: Path, slices: tuple[str, ...]) -> None:
    if slices:
        raise BadInput(
            f"expected a manifest with the columns {', '.join(slices)} for data.slices, found the folder {root}: "
            "write a CSV manifest, or leave data.slices out"
        )


def _from_manifest(manifest: Path, spec: DataSpec) -> Iterator[Source]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = {"path", "label", *spec.slices} - set(columns)
            if missing:
                raise BadInput(
                    f"expected columns path, label[, group][, split]{''.join(f', {s}' for s in spec.slices)} in "
                    f"{manifest}, found {', '.join(columns) or 'none'}: "
                    f"add {', '.join(sorted(missing))}"
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"expected {manifest} to be a CSV file in UTF-8, found otherwise ({error}): save it so, or name the folder"
        ) from None
    _check_even(manifest, rows)
    _check_labels(manifest, [row["label"] for row in rows])
    _check_unique(manifest, [row["path"] for row in rows])
    for number, row in enumerate(rows, start=2):
        yield _source_of_row(manifest, number, row, spec)


def _source_of_row(manifest: Path, number: int, row: dict[str, str], spec: DataSpec) -> Source:
    path = Path(row["path"]) if Path(row["path"]).is_absolute() else manifest.parent / row["path"]
    if not path.is_file():
        raise BadInput(
            f"{manifest}, line {number}: expected a picture at {path}, found none: correct the path",
            shared=f"{manifest}, line {number}: expected a picture at its path, found none: correct the path",
        )
    split = row.get("split")
    if split is not None and split.lower() not in _SPLIT_NAMES:
        raise BadInput(
            f"{manifest}, line {number}: expected split train, validation or test, found {split!r}: correct the word"
        )
    given = _SPLIT_NAMES[split.lower()] if split is not None else None
    slices = tuple(row[column] for column in spec.slices)
    return Source(path, row["path"], row["label"], _group(row["path"], row, spec.group_by), given, slices)


def _check_even(manifest: Path, rows: Sequence[Mapping[Any, Any]]) -> None:
    """The CSV reader keeps surplus cells under the key None, and gives None for missing ones."""
    uneven = [number for number, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if uneven:
        raise BadInput(
            f"{manifest}, line {uneven[0]}: expected as many cells as the header has, found more or fewer there and "
            f"in {len(uneven) - 1} other rows: complete them, and quote values that hold a comma"
        )


def _check_labels(manifest: Path, labels: list[str]) -> None:
    """Classification only: a column of measurements is not a column of class names."""
    empty = sum(not label.strip() for label in labels)
    if empty:
        raise BadInput(
            f"expected a label in every row of {manifest}, found {empty} empty ones: fill or remove the rows"
        )
    if labels and all(_is_number(label) for label in labels):
        distinct = set(labels)
        if any(not re.fullmatch(r"[+-]?\d+", label) for label in distinct) or len(distinct) > max(20, len(labels) // 4):
            raise BadInput(
                f"expected class names in column label of {manifest}, found {len(distinct)} different numbers: "
                "Thaw classifies and does not predict quantities; name the classes"
            )


def _check_unique(manifest: Path, paths: list[str]) -> None:
    written = Counter(os.path.normpath(path) for path in paths)  # ./a.png is a.png
    twice, times = written.most_common(1)[0] if paths else ("", 0)
    if times > 1:
        wanted, advice = f"expected each picture once in {manifest}, found", "times: remove the extra rows"
        raise BadInput(f"{wanted} {twice} {times} {advice}", shared=f"{wanted} one {times} {advice}")


def _group(relative: str, row: dict[str, str], group_by: str | None) -> str | None:
    if group_by is None or group_by in row:
        return row.get(group_by or "group") or None
    try:
        match = re.search(group_by, relative)
    except re.error as error:
        raise BadInput(
            f"expected data.group_by to be a column or a regular expression, found {group_by!r} ({error}): correct it"
        ) from None
    if match is None:
        columns = f" or to be one of the columns {', '.join(row)}" if row else ""
        wanted = f"expected data.group_by {group_by!r} to match every path{columns}"
        raise BadInput(
            f"{wanted}, found {relative!r}: correct it", shared=f"{wanted}, found one that it does not: correct it"
        )
    return match.group(1) if match.re.groups else match.group(0)


def _is_text(name: str) -> bool:
    """False for a file name that is not UTF-8: it has no place in JSON."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
