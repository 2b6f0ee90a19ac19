"""uint8 [N, H, W, 3] in one .npy file, written row by row by threads, without keeping it in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from serving.preprocess import Pixels


class PixelFile:
    """Room for `count` pictures of `size` x `size`; rows that are not written are black."""

    def __init__(self, path: Path, count: int, size: int) -> None:
        self._shape = (size, size, 3)
        self._row = size * size * 3
        self._start = len(_header(count, self._shape))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.pwrite(self._file, _header(count, self._shape), 0)
        os.truncate(self._file, self._start + count * self._row)

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, i: int, pixels: Pixels) -> None:
        """`pixels`: uint8 [H, W, 3]. Threads may write different rows at once: a file has no position for pwrite."""
        assert pixels.shape == self._shape
        self._put(i, np.ascontiguousarray(pixels).tobytes())

    def _put(self, i: int, data: bytes) -> None:
        done = 0
        while done < len(data):  # a disk that fills up takes a part first, and refuses the rest
            done += os.pwrite(self._file, data[done:] if done else data, self._start + i * self._row + done)


def keep_rows(path: Path, rows: Sequence[int]) -> None:
    """Leaves only these rows of the file, which ascend, in this order."""
    with path.open("r+b") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        start, row = file.tell(), int(np.prod(shape[1:]))
        for target, source in enumerate(rows):
            if target != source:
                file.seek(start + source * row)
                data = file.read(row)
                file.seek(start + target * row)
                file.write(data)
        header = _header(len(rows), shape[1:])
        assert len(header) == start, "numpy pads headers so that the number of rows may change"
        file.seek(0)
        file.write(header)
        file.truncate(start + len(rows) * row)


def _header(count: int, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()
