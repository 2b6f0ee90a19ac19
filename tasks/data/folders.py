"""Pictures in class folders, or in train/, validation/ and test/ of class folders. Reads names, sizes and times only.

Hidden files and what operating systems leave (Thumbs.db, desktop.ini, __MACOSX) are passed over. A link to a picture
inside the root counts as that picture; a link that leads out or to nothing is listed with the reason why it is not
read: what lies elsewhere may change or vanish without anybody's knowing that a model was made of it. A folder that is
a link, or cannot be opened, stops the run: nobody knows how many pictures it would leave out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from serving.errors import BadInput
from tasks.data.listing import SPLIT_NAMES, SPLITS, Listed, Source, group_of, is_picture, listed, refused, suffix_of

_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "$recycle.bin"}
OUTSIDE = "pictures outside the class folders"
NO_SUFFIX = "no suffix"


def from_folders(root: Path, group_by: str | None, ignored: Counter[str]) -> Iterator[Source]:
    """`ignored` counts, by suffix, the files that are not named like pictures."""
    real = os.path.realpath(root)
    top = _folders_in(root, ignored)
    given = {name: SPLIT_NAMES[name.lower()] for name in top if name.lower() in SPLIT_NAMES}
    if given and (len(given) != len(top) or sorted(given.values()) != sorted(SPLITS)):
        raise BadInput(
            f"expected under {root} either class folders or exactly train/, validation/ and test/, "
            f"found {', '.join(top)}: rename or complete them"
        )
    parents: Mapping[str, str | None] = given or {"": None}
    for folder, split in parents.items():
        labels = _folders_in(root / folder, ignored) if folder else top
        for label in labels:
            start, empty = len(str(root)) + 1 if str(root) != "/" else 1, True
            for file, found in _files(str(root / folder / label), real, ignored):
                relative, empty = file[start:], False
                group = None if group_by is None else group_of(relative, {}, (), group_by)
                yield Source(file, relative, label, group, split, (), *found)
            if empty:
                raise BadInput(
                    f"expected pictures in every class folder, found none in {root / folder / label}: add some, or "
                    "remove the folder"
                )


def _folders_in(folder: Path, ignored: Counter[str]) -> list[str]:
    names = []
    for entry in _entries(str(folder)):
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  entry.is_dir() raises at a loop of links
            raise _linked(str(folder), entry)
        else:
            ignored[OUTSIDE if is_picture(entry.name) else suffix_of(entry.name) or NO_SUFFIX] += 1
    return names


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    """Without what is hidden or not a person's, in order of names."""
    try:
        with os.scandir(folder) as found:
            kept = [entry for entry in found if entry.name[0] != "." and entry.name.lower() not in _JUNK]
    except OSError as error:
        raise BadInput(
            f"expected to list {folder}, found a folder that cannot be opened ({error.strerror}): allow it, or "
            "move it away"
        ) from None
    return sorted(kept, key=lambda entry: entry.name)


def _files(folder: str, real: str, ignored: Counter[str]) -> Iterator[tuple[str, Listed]]:
    """Every picture at any depth."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        for entry in _entries(here):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_symlink():
                target = _link(entry, real)
                if target is not None:
                    yield entry.path, target
            elif is_picture(entry.name):
                yield entry.path, _status(entry)
            else:
                ignored[suffix_of(entry.name) or NO_SUFFIX] += 1


def _status(entry: os.DirEntry[str]) -> Listed:
    try:
        return listed(entry.stat())
    except OSError as error:  # gone since the folder was listed
        return refused(f"cannot be opened: {error.strerror}")


def _link(entry: os.DirEntry[str], real: str) -> Listed | None:
    """None: a link that is not named like a picture. Raises BadInput: it leads to a folder."""
    target = os.path.realpath(entry.path)
    if os.path.isdir(target):  # noqa: PTH112  as for realpath, a Path adds nothing
        raise _linked(os.path.dirname(entry.path), entry)  # noqa: PTH120
    if not is_picture(entry.name):
        return None
    if not target.startswith(real.rstrip("/") + "/"):
        return refused("is a link that leads out of the folder: copy the picture, or name it in a manifest")
    return _status(entry)


def _linked(folder: str, entry: os.DirEntry[str]) -> BadInput:
    return BadInput(
        f"expected folders in {folder}, found {entry.name!r}, a link to one: name the real folder, or write a manifest "
        "of its pictures"
    )
