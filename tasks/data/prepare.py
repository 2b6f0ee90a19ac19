"""prepare: read every picture once, check it, split, and write uint8 arrays."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving import sealed
from serving.errors import BadInput
from serving.preprocess import Preprocessing
from tasks.data import split as splits
from tasks.data.bridges import divide
from tasks.data.dataset import COLUMNS, PICTURES, PIXELS, SLICE, SPLIT, Dataset
from tasks.data.draws import TABLE, current_draw, table_locked
from tasks.data.facts import looks_of, write_facts
from tasks.data.pixel_file import keep_rows
from tasks.data.reading import Read, read_all
from tasks.data.source import SPLITS, Found, Source, absolute, find
from tasks.data.spec import DataSpec
from tasks.data.verified import check_bytes
from tasks.progress import Progress, silent

_FORMAT = 3  # part of every key: raise it when the same input would give other arrays


def prepare(
    name: str,
    home: Path,
    data: DataSpec,
    preprocessing: Preprocessing,
    progress: Progress = silent,
    torn: bool = False,
) -> Dataset:
    """Decodes, splits and stores the pictures of `data.root` for the model `name`.

    Writes `datasets/NAME/<key>/` (complete or absent) and extends the name's split table `datasets/NAME/split.csv`.
    The key covers file names, sizes and times and everything that shapes the arrays: unchanged input reads no
    picture again, unless `data.verify` asks for it. `torn`: take a split that the user gave as it is, for an audit
    in a home of its own. Raises BadInput: see `find`, `split.place`, `check_bytes`; too many unreadable pictures.
    """
    found = find(data)
    folder = home / "datasets" / name
    with table_locked(name, home):
        draw = current_draw(folder)
        key = _key(found.pictures, data, preprocessing, draw)
        place = folder / key
        reused = sealed.about(place) is not None
        if reused:
            _check_table(place, folder / TABLE)
        else:
            _write(place, folder / TABLE, found, data, preprocessing, draw, progress, torn)
    dataset = _load(place, key, name, reused)
    if reused and data.verify:
        check_bytes(dataset, found.pictures, progress)
    return dataset


def find_prepared(name: str, home: Path, data: DataSpec, preprocessing: Preprocessing) -> Dataset | None:
    """What `prepare` would use again, or None where a picture is new, gone or changed. Reads no picture."""
    folder = home / "datasets" / name
    key = _key(find(data).pictures, data, preprocessing, current_draw(folder))
    place = folder / key
    return None if sealed.about(place) is None else _load(place, key, name, reused=True)


def _load(place: Path, key: str, name: str, reused: bool) -> Dataset:
    about = sealed.about(place)
    assert about is not None
    size, resize = int(about["image_size"]), str(about["resize"])
    # the split is part of what a dataset is: another name's table may place the same pictures otherwise
    key = sealed.digest_of([key, about["files"][PICTURES]])[:16]
    return Dataset(
        place, key, name, tuple(about["classes"]), size, resize, bool(about["grouped"]), reused, tuple(about["slices"])
    )


def _check_table(place: Path, table_path: Path) -> None:
    """The name's table is authoritative: somebody may have restored another since this dataset was divided."""
    text = (place / SPLIT).read_bytes()
    if table_path.is_file() and table_path.read_bytes() == text:
        return
    own, table = splits.read_table(place / SPLIT), splits.read_table(table_path)
    moved = sum(digest not in table or table[digest].split != where.split for digest, where in own.items())
    if moved:
        raise BadInput(
            f"expected the pictures of {place} in {table_path} as they were divided, found {moved} of {len(own)} "
            "missing or elsewhere: put the table back, or remove that folder to divide them by the table"
        )


def _key(sources: Sequence[Source], data: DataSpec, preprocessing: Preprocessing, draw: splits.Draw) -> str:
    listing = hashlib.sha256()
    for source in sources:  # without where it lies: a folder that is moved as a whole is the same
        listing.update(repr(source[1:]).encode("utf-8", "surrogateescape"))
    shape = (preprocessing.image_size, preprocessing.resize)
    parameters = data.model_dump(mode="json", exclude={"verify"}) | {"root": str(absolute(data.root))}
    return sealed.digest_of([_FORMAT, listing.hexdigest(), shape, parameters, draw.number])[:16]


def _write(
    place: Path,
    table_path: Path,
    found: Found,
    data: DataSpec,
    preprocessing: Preprocessing,
    draw: splits.Draw,
    progress: Progress,
    torn: bool,
) -> None:
    sources = found.pictures
    about: dict[str, Any] = {}
    with sealed.sealing(place, about) as directory:
        read = read_all(directory / PIXELS, sources, preprocessing, progress)
        good = [i for i, one in enumerate(read) if one.error is None]
        _check_unreadable(sources, read, data.max_unreadable)
        _check_classes_left(sources, good)
        table = splits.read_table(table_path)
        places = _places(sources, read, good, data, table, draw, torn)
        rows = [(sources[i], read[i], where) for i, where in zip(good, places, strict=True)]
        kept = [row for row in rows if row[2].split != splits.BRIDGE]
        _write_pictures(directory / PICTURES, kept, data.slices)
        write_facts(directory, [one.fact for _, one, _ in kept if one.fact is not None])
        own = {one.digest: where for _, one, where in kept}
        (directory / SPLIT).write_text(splits.table_text(own))
        keep_rows(
            directory / PIXELS, [i for i, where in zip(good, places, strict=True) if where.split != splits.BRIDGE]
        )
        about |= {
            "image_size": preprocessing.image_size,
            "resize": preprocessing.resize,
            "classes": sorted({source.label for source, _, _ in kept}),
            "slices": list(data.slices),
            "grouped": any(source.group is not None for source, _, _ in kept),
            "counts": _counts(kept),
            "units": len({where.unit for _, _, where in kept}),
            "unreadable": [
                {"path": _printable(s.path), "why": r.error} for s, r in zip(sources, read, strict=True) if r.error
            ],
            "bridges": [_printable(source.path) for source, _, where in rows if where.split == splits.BRIDGE],
            "ignored": {_printable(Path(kind)): count for kind, count in found.ignored},
        }
        splits.write_table(table_path, {**table, **own})


def _check_unreadable(sources: Sequence[Source], read: Sequence[Read], allowed: float) -> None:
    bad = [(source, one) for source, one in zip(sources, read, strict=True) if one.error is not None]
    if len(bad) > allowed * len(sources):
        source, one = bad[0]
        found = f"expected at most {allowed:.1%} unreadable pictures, found {len(bad)} of {len(sources)}"
        advice = "Repair or remove them, or raise data.max_unreadable"
        raise BadInput(f"{found}; first {_printable(source.path)}: {one.error}. {advice}", shared=f"{found}. {advice}")


def _check_classes_left(sources: Sequence[Source], good: Sequence[int]) -> None:
    gone = {source.label for source in sources} - {sources[i].label for i in good}
    if gone:
        raise BadInput(
            f"expected readable pictures of every class, found none of {', '.join(sorted(gone))}: repair them"
        )


def _places(
    sources: Sequence[Source],
    read: Sequence[Read],
    good: Sequence[int],
    data: DataSpec,
    table: splits.Table,
    draw: splits.Draw,
    torn: bool,
) -> list[splits.Place]:
    looks = looks_of([fact for i in good if (fact := read[i].fact) is not None])
    pictures = [splits.Picture(read[i].digest, sources[i].label, -1, sources[i].group, sources[i].split) for i in good]
    return divide(pictures, looks if data.near_duplicates else None, table, data, draw, torn)


def _write_pictures(path: Path, rows: Sequence[tuple[Source, Read, splits.Place]], slices: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *(SLICE + column for column in slices)))
        for source, one, found in rows:
            place = (source.path.absolute(), one.digest, source.label, found.unit, found.split)
            writer.writerow((*place, *source.slices))


def _printable(path: Path) -> str:
    """A file name that is not UTF-8, in a form that JSON can hold."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _counts(rows: Sequence[tuple[Source, Read, splits.Place]]) -> dict[str, dict[str, int]]:
    counts = Counter((found.split, source.label) for source, _, found in rows)
    return {split: {label: n for (s, label), n in sorted(counts.items()) if s == split} for split in SPLITS}
