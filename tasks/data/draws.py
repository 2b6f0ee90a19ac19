"""Fresh held-out sets: the old split table is kept under a dated name, and the next run draws another.

datasets/NAME/split.csv                the table in force
datasets/NAME/split-<n>-<date>.csv     those before it; the highest n is the number of the draw in force
"""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from serving import sealed
from serving.errors import BadInput
from serving.locks import locked
from tasks.data.split import FIRST, Draw, read_table

TABLE = "split.csv"
_PREPARE_SECONDS = 3600.0  # the longest that another run is waited for
_ARCHIVED = re.compile(r"split-(\d+)-\d{4}-\d\d-\d\d\.csv")


def current_draw(folder: Path) -> Draw:
    """Of the name whose datasets are in `folder`."""
    archived = _archived(folder)
    if not archived:
        return FIRST
    worn: dict[str, int] = {}
    for number, path in sorted(archived.items()):
        worn |= {digest: number for digest, place in read_table(path).items() if place.split == "test"}
    return Draw(max(archived), worn)


def archive_table(name: str, home: Path, date: str) -> Path:
    """Puts the split table of `name` aside, so that the next run draws a fresh one; returns where it is now.

    Waits for a run that is preparing pictures. Never replaces a table: those tell which pictures were held out before.
    Raises BadInput: there is no table, or another file has the name that it would get.
    """
    folder = home / "datasets" / name
    with table_locked(name, home):
        if not (folder / TABLE).is_file():
            raise BadInput(
                f"expected the split table of {name} at {folder / TABLE}, found none: the next `thaw retrain` draws one"
            )
        archived = folder / f"split-{max(_archived(folder), default=0) + 1}-{date}.csv"
        if archived.exists():
            raise BadInput(f"expected no {archived} yet, found one: move it elsewhere")
        (folder / TABLE).rename(archived)
        sealed.sync(folder)
    return archived


def copy_tables(name: str, home: Path, other: Path) -> None:
    """The table in force and those before it, if any, to another home: there the same pictures are divided alike."""
    target = other / "datasets" / name
    target.mkdir(parents=True)
    for table in (home / "datasets" / name).glob("split*.csv"):
        shutil.copyfile(table, target / table.name)


def table_locked(name: str, home: Path) -> AbstractContextManager[None]:
    """Held by whoever reads or changes the name's table. Raises Conflict."""
    return locked(home, f"data-{name}", _PREPARE_SECONDS)


def _archived(folder: Path) -> dict[int, Path]:
    """By number. Other people's copies may lie beside them."""
    found = ((_ARCHIVED.fullmatch(path.name), path) for path in folder.glob("split-*.csv"))
    return {int(match[1]): path for match, path in found if match}
