"""Kept memory is really kept, and given back afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHILD = """
    import resource, sys
    import torch
    from tasks.training.memory import kept

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(16 * 2**20)  # 64 MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    plain = faults()
    with kept():
        faults()
        inside = faults()
        size = int(open("/proc/self/statm").read().split()[1])
    after = faults()
    freed = size - int(open("/proc/self/statm").read().split()[1])
    print(plain, inside, after, freed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_pages_are_touched_once() -> None:
    """In a process of its own, whose heap holds nothing of other tests."""
    root = Path(__file__).parent.parent.parent
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD)], cwd=root, capture_output=True, check=True)
    plain, inside, after, freed = map(int, out.stdout.split())
    assert plain > 1000
    assert inside < plain / 20
    assert after > 1000
    assert freed * 4096 > 32 * 2**20
