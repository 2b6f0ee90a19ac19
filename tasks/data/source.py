"""Which pictures there are, with their labels: class folders, or a manifest."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.errors import BadInput
from tasks.data.folders import from_folders
from tasks.data.listing import SPLITS, Source
from tasks.data.manifest import from_manifest
from tasks.data.spec import DataSpec

__all__ = ["SPLITS", "Found", "Source", "find", "find_pictures"]


@dataclass(frozen=True, slots=True)
class Found:
    """`pictures` in a stable order; `ignored`: how many files were passed over, by suffix."""

    pictures: tuple[Source, ...]
    ignored: tuple[tuple[str, int], ...]


def find_pictures(spec: DataSpec) -> tuple[Source, ...]:
    """`find`, without what was passed over."""
    return find(spec).pictures


def find(spec: DataSpec) -> Found:
    """Every picture of the root, in a stable order. Reads names, sizes and times only.

    Raises BadInput: no such root, no pictures, fewer than two classes, names of classes that cannot be told apart, a
    class that a split given by the user lacks, a manifest that does not fit.
    """
    root = absolute(spec.root)
    ignored: Counter[str] = Counter()
    if os.path.isfile(root):  # noqa: PTH113  Path.is_file() raises where a name is too long
        sources = list(from_manifest(root, spec))
    elif os.path.isdir(root):  # noqa: PTH112
        _check_no_slices(root, spec.slices)
        sources = list(from_folders(root, spec.group_by, ignored))
    else:
        raise BadInput(
            f"expected a folder, or a manifest (CSV or Parquet), at {root}, found nothing there: check data.root"
        )
    if not sources:
        where = f"in one folder per class under {root}" if root.is_dir() else f"in {root}, one a row"
        raise BadInput(f"expected pictures {where}, found none: see data.root")
    _check_classes(root, sorted({source.label for source in sources}))
    _check_splits(sources)
    return Found(tuple(sorted(sources, key=lambda source: source.relative)), tuple(sorted(ignored.items())))


def absolute(root: Path) -> Path:
    """Links are not resolved: a root may be a link that is turned to other pictures of the same names."""
    return Path(os.path.abspath(os.path.expanduser(root)))  # noqa: PTH100, PTH111  Path.expanduser() raises at ~nobody


def _check_no_slices(root: Path, slices: tuple[str, ...]) -> None:
    if slices:
        raise BadInput(
            f"expected a manifest with the columns {', '.join(slices)} for data.slices, found the folder {root}: "
            "write a CSV manifest, or leave data.slices out"
        )


def _check_classes(root: Path, classes: Sequence[str]) -> None:
    if "overall" in classes:
        raise BadInput(
            "expected class names other than `overall`, which the gate's lines use for all classes: rename it"
        )
    if any(not _is_text(label) for label in classes):
        raise BadInput(f"expected class folders with names in UTF-8 under {root}, found another encoding: rename them")
    if len(classes) < 2:
        raise BadInput(f"expected two or more classes in {root}, found one ({classes[0]!r}): add the other classes")
    for label, other in _alike(classes):
        raise BadInput(
            f"expected class names that differ in more than case, blanks or Unicode form in {root}, found {label!a} "
            f"and {other!a}: give one class one spelling"
        )


def _alike(classes: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Names that a person, or another file system, takes for one. Single letters may be classes of handwriting."""
    seen: dict[str, str] = {}
    for label in classes:
        form = unicodedata.normalize("NFC", label).strip()
        key = form.casefold() if len(form) > 1 else form
        if key in seen:
            yield seen[key], label
        seen[key] = label


def _check_splits(sources: Sequence[Source]) -> None:
    """Where the user gave the splits: each has every class, and no class is in one only."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.split is not None:
            found[source.split].add(source.label)
    if not found:
        return
    labels = sorted(set().union(*found.values()))
    missing = [f"{label!r} in {split}" for split in SPLITS for label in labels if label not in found[split]]
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise BadInput(
            f"expected pictures of every class in each of {', '.join(SPLITS)}, found none of "
            f"{', '.join(missing[:6])}{more}: add them, or take the class out of every split"
        )


def _is_text(name: str) -> bool:
    """False for a file name that is not UTF-8: it has no place in JSON."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
