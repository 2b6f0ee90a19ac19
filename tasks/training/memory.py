"""Memory: what a training step frees is kept for the next one, and what a GPU has too little of is asked for in halves.

glibc hands every large block back to the system as soon as it is freed, and the next step's first touch of each page
is a page fault: a third of the time of fine-tuning on the CPU. Measured: docs/decisions/0009-training-speed.md.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

from tasks.training.errors import TooLarge

T = TypeVar("T")

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
