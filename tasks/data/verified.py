"""Reads all files of a prepared dataset again: names, sizes and times may be the same although the bytes are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from serving import sealed
from serving.errors import BadInput
from tasks.data.dataset import Dataset, read_rows
from tasks.data.reading import Unreadable, bytes_of, in_threads
from tasks.data.source import Source
from tasks.progress import Progress


def check_bytes(dataset: Dataset, sources: Sequence[Source], progress: Progress) -> None:
    """Compares each picture's digest, and those of the dataset's own files, with what was prepared.

    Raises BadInput: a picture is another one now, or cannot be read; ArtifactError: the arrays were altered.
    """
    sealed.verify(dataset.path)
    wanted = {row["path"]: row["digest"] for row in read_rows(dataset)}
    kept = [source for source in sources if str(source.path.absolute()) in wanted]
    changed = []
    for i, digest in enumerate(in_threads(lambda i: digest_of(kept[i]), len(kept))):
        if digest != wanted[str(kept[i].path.absolute())]:
            changed.append(kept[i])
        progress(i + 1, len(kept), "pictures compared")
    if changed or len(kept) != len(wanted):
        count = len(changed) + len(wanted) - len(kept)
        told = f"expected the {len(wanted)} pictures that were prepared, byte for byte, found {count} changed"
        advice = "restore them, or give the new ones a new time of change (`touch`), so that they count as new"
        first = f"; first {changed[0].path}" if changed else ""
        raise BadInput(f"{told}{first}: {advice}", shared=f"{told}: {advice}")


def digest_of(source: Source) -> str | None:
    """Hex sha256 of the file as it was listed, or None where it cannot be read."""
    try:
        return hashlib.sha256(bytes_of(source)).hexdigest()
    except Unreadable:
        return None
