"""Fresh held-out sets: the old split table is kept under a dated name, and the next run draws another.

datasets/NAME/split.csv                the table in force
datasets/NAME/split-<n>-<date>.csv     those before it; how many there are is the number of the draw in force
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from serving import sealed
from serving.errors import BadInput
from tasks.data.split import read_table

TABLE = "split.csv"


@dataclass(frozen=True, slots=True)
class Draw:
    """Which draw a table is of, and the digests that were held out by the one before: those are trained on now."""

    number: int = 0
    worn: frozenset[str] = frozenset()


def current_draw(folder: Path) -> Draw:
    """Of the name whose datasets are in `folder`."""
    archived = _archived(folder)
    if not archived:
        return Draw()
    last = read_table(archived[-1])
    return Draw(len(archived), frozenset(digest for digest, place in last.items() if place.split == "test"))


def archive_table(name: str, home: Path, date: str) -> Path:
    """Puts the split table of `name` aside, so that the next run draws a fresh one; returns where it is now.

    Waits for a run that is preparing pictures. Raises BadInput: there is no table.
    """
    folder = home / "datasets" / name
    with FileLock(lock_of(name, home), timeout=3600):
        if not (folder / TABLE).is_file():
            raise BadInput(
                f"expected the split table of {name} at {folder / TABLE}, found none: the next `thaw retrain` draws one"
            )
        archived = folder / f"split-{len(_archived(folder)) + 1}-{date}.csv"
        (folder / TABLE).rename(archived)
        sealed.sync(folder)
    return archived


def lock_of(name: str, home: Path) -> Path:
    """Held by whoever reads or changes the name's table."""
    home.joinpath("locks").mkdir(parents=True, exist_ok=True)
    return home / "locks" / f"data-{name}.lock"


def _archived(folder: Path) -> list[Path]:
    """In the order they were put aside."""
    return sorted(folder.glob("split-*-*.csv"), key=lambda path: int(path.name.split("-")[1]))
