"""Manifests: a CSV or Parquet file with one row a picture and the columns path, label[, group][, split].

One reader for both: what follows sees columns of text.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.errors import BadInput
from tasks.data.listing import SPLIT_NAMES, Listed, Source, group_of, listed, refused
from tasks.data.spec import DataSpec

_PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True)
class _Table:
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, str]]
    numbers: Sequence[int]  # of each row, as people count: of a CSV, the line in which it begins
    unit: str  # line or row


def from_manifest(manifest: Path, spec: DataSpec) -> Iterator[Source]:
    """Paths are relative to the manifest, or absolute; they may lie anywhere, since a person wrote each of them."""
    table = _read_parquet(manifest, spec) if _is_parquet(manifest) else _read_csv(manifest, spec)
    _check_labels(manifest, [row["label"] for row in table.rows])
    _check_unique(manifest, [row["path"] for row in table.rows])
    with_split = any(row.get("split") for row in table.rows)  # an empty column says nothing
    for number, row in zip(table.numbers, table.rows, strict=True):
        where = f"{manifest}, {table.unit} {number}"
        given = _split_of(where, row["split"]) if with_split else None
        yield _source_of_row(where, manifest.parent, row, table.columns, spec, given)


def _is_parquet(manifest: Path) -> bool:
    try:
        with manifest.open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise BadInput(f"expected to read {manifest}, found it cannot be opened: {error.strerror}") from None


def _read_csv(manifest: Path, spec: DataSpec) -> _Table:
    rows: list[list[str]] = []
    lines, begun = [], 1
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)  # else all rows after an open quote are one cell's text
            columns = tuple(next(reader, ()))
            _check_columns(manifest, columns, spec)
            begun = reader.line_num + 1
            for row in reader:
                if row:  # a blank line is nothing
                    rows.append(row)
                    lines.append(begun)
                begun = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(
            f"{manifest}, line {begun}: expected a row of a CSV file, found one that is not ({error}): close the quotes"
        ) from None
    except UnicodeDecodeError as error:
        raise BadInput(
            f"expected {manifest} to be a CSV file in UTF-8 or a Parquet file, found otherwise ({error}): save it so, "
            "or name the folder"
        ) from None
    uneven = [line for line, row in zip(lines, rows, strict=True) if len(row) != len(columns)]
    if uneven:
        raise BadInput(
            f"{manifest}, line {uneven[0]}: expected as many cells as the header has, found more or fewer there and "
            f"in {len(uneven) - 1} other rows: complete them, and quote values that hold a comma"
        )
    return _Table(columns, [dict(zip(columns, row, strict=True)) for row in rows], lines, "line")


def _read_parquet(manifest: Path, spec: DataSpec) -> _Table:
    from pyarrow import ArrowException, parquet

    try:
        # not by name: `open` would take a folder of parts, and a name like s3:// for an address
        with manifest.open("rb") as file:
            whole = parquet.ParquetFile(file)
            columns = tuple(whole.schema_arrow.names)
            _check_columns(manifest, columns, spec)
            wanted = [c for c in columns if c in {"path", "label", "group", "split", spec.group_by, *spec.slices}]
            read = [whole.read([name], use_threads=False).column(name).to_pylist() for name in wanted]
            cells = list(zip(*read, strict=True))
    except (ArrowException, OSError, KeyError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise BadInput(f"expected {manifest} to be a Parquet file, found otherwise ({told}): write it again") from None
    rows = [{name: _text(value, manifest, name) for name, value in zip(wanted, row, strict=True)} for row in cells]
    return _Table(columns, rows, range(1, len(rows) + 1), "row")


def _text(value: object, manifest: Path, column: str) -> str:
    """As the same table would stand in a CSV file."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # what pandas makes of an empty cell
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise BadInput(
        f"expected text or numbers in column {column} of {manifest}, found {type(value).__name__}: write it as text"
    )


def _check_columns(manifest: Path, columns: Sequence[str], spec: DataSpec) -> None:
    missing = {"path", "label", *spec.slices} - set(columns)
    if missing:
        raise BadInput(
            f"expected columns path, label[, group][, split]{''.join(f', {s}' for s in spec.slices)} in {manifest}, "
            f"found {', '.join(columns) or 'none'}: add {', '.join(sorted(missing))}"
        )
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise BadInput(f"expected each column once in {manifest}, found {twice[0]!r} again: rename one")


def _split_of(where: str, word: str) -> str:
    if word.lower() not in SPLIT_NAMES:
        raise BadInput(
            f"{where}: expected split train, validation or test, found {word!r}: correct it, or leave all empty"
        )
    return SPLIT_NAMES[word.lower()]


def _source_of_row(
    where: str, folder: Path, row: Mapping[str, str], columns: Sequence[str], spec: DataSpec, split: str | None
) -> Source:
    path = Path(row["path"]) if Path(row["path"]).is_absolute() else folder / row["path"]
    found = _status(path)
    if found is None:
        raise BadInput(
            f"{where}: expected a picture at {path}, found none: correct the path",
            shared=f"{where}: expected a picture at its path, found none: correct the path",
        )
    slices = tuple(row[column] for column in spec.slices)
    group = group_of(row["path"], row, columns, spec.group_by)
    return Source(str(path), row["path"], row["label"], group, split, slices, *found)


def _status(path: Path) -> Listed | None:
    """None where nothing is there."""
    try:
        return listed(path.stat())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL byte in the name
        return None
    except OSError as error:
        return refused(f"cannot be opened: {error.strerror}")


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
    written = Counter(os.path.normpath(manifest.parent / path) for path in paths)  # ./a.png is a.png
    twice, times = written.most_common(1)[0] if paths else ("", 0)
    if times > 1:
        wanted, advice = f"expected each picture once in {manifest}, found", "times: remove the extra rows"
        raise BadInput(f"{wanted} {twice} {times} {advice}", shared=f"{wanted} one {times} {advice}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
