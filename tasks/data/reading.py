"""The one pass over the pictures: each file's bytes are read, hashed, decoded and looked at once.

Memory stays flat however many pictures there are: a few of them are under way at a time, their pixels go straight
to their place in the file, and what stays of each is a digest and a few numbers.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from serving.errors import PictureError
from serving.preprocess import Preprocessing, inspect, to_pixels
from serving.settings import cores
from tasks.data.facts import Fact, measure
from tasks.data.pixel_file import PixelFile
from tasks.data.source import Source
from tasks.progress import Progress

MAX_BYTES = 256 * 2**20  # of one file: the largest picture that is accepted needs less in any format
_TOGETHER = 16  # pictures handed to a thread at once: handing over costs as much as a small picture's decoding
_WAITING = 4  # such handfuls per thread
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read:
    """What one pass over a picture's bytes gives; `error` instead of `fact` where it is unreadable."""

    digest: str
    fact: Fact | None
    error: str | None


class Unreadable(Exception):
    """Why a file was not read, in words."""


def read_all(path: Path, sources: Sequence[Source], preprocessing: Preprocessing, progress: Progress) -> list[Read]:
    """Writes the arrays of all pictures to `path`, row by row; an unreadable one's row stays black."""
    with PixelFile(path, len(sources), preprocessing.image_size) as pixels:
        done: list[Read] = []
        for one in in_threads(lambda i: _read(i, sources[i], preprocessing, pixels), len(sources)):
            done.append(one)
            progress(len(done), len(sources), "pictures read")
    return done


def in_threads(work: Callable[[int], T], count: int) -> Iterator[T]:
    """`work(0)` ... `work(count - 1)`, in order, a bounded number of them ahead of the caller."""
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[T]]] = deque()
        for start in range(0, count, _TOGETHER):
            handful = range(start, min(start + _TOGETHER, count))
            waiting.append(pool.submit(lambda handful: [work(i) for i in handful], handful))
            if len(waiting) > _WAITING * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _read(i: int, source: Source, preprocessing: Preprocessing, pixels: PixelFile) -> Read:
    try:
        data = bytes_of(source)
        # the same calls as serving's read_pixels, kept apart because the facts are taken between them
        picture = inspect(data, at_least=2 * preprocessing.image_size)
    except (PictureError, Unreadable) as error:
        return Read("", None, str(error))
    pixels.write(i, to_pixels(picture.image, preprocessing))
    return Read(hashlib.sha256(data).hexdigest(), measure(picture, len(data)), None)


def bytes_of(source: Source) -> bytes:
    """The file's bytes, if it is what it was when it was listed, as the dataset's key says. Raises Unreadable."""
    if source.refused is not None:
        raise Unreadable(source.refused)
    if source.size > MAX_BYTES:
        raise Unreadable(f"expected at most {MAX_BYTES // 2**20} MiB, found {source.size // 2**20}: scale it down")
    data, after = read_regular(source.file, source.size + 1)
    if (len(data), after.st_size, after.st_mtime_ns) != (source.size, source.size, source.time):
        raise Unreadable("was changed while the pictures were read: run again when nothing writes to it")
    return data


def read_regular(path: str | Path, most: int) -> tuple[bytes, os.stat_result]:
    """The first `most` bytes of a file, and its status after they were read. Raises Unreadable."""
    try:
        # it may have become a pipe since it was listed; without O_NONBLOCK opening one waits for a writer
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable("is no longer a file")
            return file.read(most), os.fstat(file.fileno())
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
