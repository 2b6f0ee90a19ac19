"""Memory: what a training step frees is kept for the next one, and what a GPU has too little of is asked for in halves.

glibc hands every large block back to the system as soon as it is freed, and the next step's first touch of each page
is a page fault: a third of the time of fine-tuning on the CPU. Measured: docs/decisions/0009-training-speed.md.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from serving.preprocess import Pixels
from tasks.data.dataset import Dataset, pixels
from tasks.training.errors import TooLarge

T = TypeVar("T")
TOUCHED = 2**27  # bytes read from a mapped file until its pages are given back

# mallopt(3): parameters, and the values that hold unless told
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_USUAL = {_TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024, _MMAP_MAX: 65_536}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _MMAP_MAX: 0}


@contextmanager
def kept() -> Iterator[None]:
    """Inside, freed memory stays with the process; afterwards what is free goes back. Without glibc: nothing."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    for parameter, value in _KEEPING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


class Mapped:
    """A dataset's pixels, uint8 [N, H, W, 3], on disk.

    Resident memory stays flat however many pictures there are: pages that were read are given back now and then. The
    system keeps them in its cache as long as it has nothing better to do with the memory.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.images, self.touched = pixels(dataset), 0

    def read(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """A copy of those rows."""
        batch = self.images[rows]
        self.touched += batch.nbytes
        mapped: object = self.images.base
        if self.touched >= TOUCHED and isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)
            self.touched = 0
        return batch


def in_halves(pass_over: Callable[[int], T], at_once: int) -> T:
    """What `pass_over` gives, called with how many pictures to take at once: `at_once`, or half as many until they fit.

    It starts over each time. Raises TooLarge: not even one picture fits.
    """
    while True:
        with suppress(torch.OutOfMemoryError):
            return pass_over(at_once)
        if at_once == 1:
            raise TooLarge("expected one picture to fit into the GPU's memory, found it not to: lower model.image_size")
        at_once //= 2
        torch.cuda.empty_cache()
