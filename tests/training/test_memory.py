"""Kept memory is really kept, and given back afterwards; what does not fit is taken in halves."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.model.classifier import Classifier
from tasks.training.embed import embed, read_features
from tasks.training.errors import TooLarge
from tasks.training.memory import in_halves
from tests.conftest import Pipeline

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
    freed = size - int(open("/proc/self/statm").read().split()[1])  # before other blocks take the same addresses
    after = faults()
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


def test_half_as_many_until_they_fit() -> None:
    tried = []

    def pass_over(at_once: int) -> str:
        tried.append(at_once)
        if at_once > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return f"in parts of {at_once}"

    assert in_halves(pass_over, 60) == "in parts of 7"
    assert tried == [60, 30, 15, 7]


def test_an_error_of_another_kind_is_not_tried_again() -> None:
    def pass_over(_at_once: int) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(pass_over, 8)


@pytest.mark.parametrize("most", [16, 0])
def test_features_are_made_of_as_many_pictures_at_once_as_fit(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    p, features, sizes = pipeline, Classifier.features, []

    def scarce(network: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features(network, pixels)

    monkeypatch.setattr(Classifier, "features", scarce)
    if not most:
        with pytest.raises(TooLarge, match="expected one picture to fit .* lower model.image_size"):
            embed(p.dataset, tmp_path, p.model, p.preprocessing, seed=0)
        assert not list((tmp_path / "features").iterdir())
        return
    made = read_features(embed(p.dataset, tmp_path, p.model, p.preprocessing, seed=0))
    assert sizes[:4] == [64, 32, 16, 16]
    np.testing.assert_allclose(made, read_features(p.features), atol=1e-4)
