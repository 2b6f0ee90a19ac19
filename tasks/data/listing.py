"""What is known of a picture before it is read: where it lies, what the user said of it, and its size and time."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from serving.errors import BadInput

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"}
# found as well, so that each is refused by name and none is left out in silence
NOT_READ = {".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".svg", ".svgz", ".pdf", ".eps", ".ps", ".psd", ".jp2"}
NOT_READ |= {".j2k", ".jpx", ".jxl", ".mpo", ".ico", ".cur", ".icns", ".tga", ".pcx", ".dds", ".qoi", ".exr", ".hdr"}
NOT_READ |= {".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".sgi", ".blp", ".fli", ".flc", ".msp", ".wmf", ".emf", ".dcm"}
NOT_READ |= {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
SUFFIXES = READ | NOT_READ
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Source(NamedTuple):
    """One picture as the user gave it. `relative` is its path as written; `split` only where the user gave one.

    `size` (bytes) and `time` (of the last change, ns) are those of the listing; `refused` says why a file is not
    even opened. A tuple, since there may be a hundred thousand, and each run makes them anew.
    """

    file: str
    relative: str
    label: str
    group: str | None
    split: str | None
    slices: tuple[str, ...] = ()  # this picture's value of each of `DataSpec.slices`
    size: int = 0
    time: int = 0
    refused: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.file)


class Listed(NamedTuple):
    """A file's size, time and the reason for not opening it, if there is one."""

    size: int
    time: int
    refused: str | None = None


def listed(status: os.stat_result) -> Listed:
    """Only a regular file is ever opened: a pipe would block, a device would never end."""
    if stat.S_ISREG(status.st_mode):
        return Listed(status.st_size, status.st_mtime_ns)
    return Listed(0, 0, f"is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, not a file")


def refused(why: str) -> Listed:
    return Listed(0, 0, why)


def is_picture(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """In small letters, or empty. Of a name that is not hidden: os.path.splitext costs as much as asking for a size."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def group_of(
    relative: str, row: Mapping[str, str | None], columns: Collection[str], group_by: str | None
) -> str | None:
    """The group that a manifest's column or a match in the path names. Raises BadInput: it does neither."""
    if group_by is None or group_by in columns:
        return row.get(group_by or "group") or None
    try:
        match = re.search(group_by, relative)
    except re.error as error:
        raise BadInput(
            f"expected data.group_by to be a column or a regular expression, found {group_by!r} ({error}): correct it"
        ) from None
    group = match and (match.group(1) if match.re.groups else match.group(0))
    if not group:  # an optional group may match nothing
        or_column = f" or to be one of the columns {', '.join(columns)}" if columns else ""
        wanted = f"expected data.group_by {group_by!r} to match every path{or_column}"
        raise BadInput(
            f"{wanted}, found {relative!r}: correct it", shared=f"{wanted}, found one that it does not: correct it"
        )
    return group
