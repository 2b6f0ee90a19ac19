"""The one pass over the pictures: each file's bytes are read, hashed, decoded and looked at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path

import numpy as np

from serving.errors import PictureError
from serving.preprocess import Preprocessing, inspect, to_pixels
from tasks.data.facts import Fact, measure
from tasks.data.source import Source
from tasks.progress import Progress


@dataclass(frozen=True, slots=True)
class Read:
    """What one pass over a picture's bytes gives; `error` instead of `fact` where it is unreadable."""

    digest: str
    fact: Fact | None
    error: str | None


def read_all(path: Path, sources: Sequence[Source], preprocessing: Preprocessing, progress: Progress) -> list[Read]:
    """Decodes with threads, straight into the memory-mapped array at `path`; results keep no pixels."""
    size = preprocessing.image_size
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(sources), size, size, 3))

    def read(i: int) -> Read:
        try:
            data = sources[i].path.read_bytes()
            # the same calls as serving's read_pixels, kept apart because the facts are taken between them
            picture = inspect(data, at_least=2 * size)
        except PictureError as error:
            return Read("", None, str(error))
        except OSError as error:
            return Read("", None, f"cannot be opened: {error.strerror}")
        array[i] = to_pixels(picture.image, preprocessing)
        return Read(hashlib.sha256(data).hexdigest(), measure(picture, len(data)), None)

    done: list[Read] = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for i, one in enumerate(pool.map(read, range(len(sources)))):
            done.append(one)
            progress(i + 1, len(sources), "pictures read")
    array.flush()
    return done
