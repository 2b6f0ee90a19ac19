"""Dropout before the head: on small pictures, and what it requires."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import dropout
from benchmarks.dropout import FIGURES, HEADS, one_seed, requirements, summary, table
from flows.demo import MANIFEST, write_manifest


def test_each_head_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def a_fifth(home: Path) -> None:
        write_manifest(home)
        header, *photos = (home / MANIFEST).read_text().splitlines()
        (home / MANIFEST).write_text("\n".join([header, *photos[::5]]))

    monkeypatch.setattr(dropout, "write_manifest", a_fifth)
    found = one_seed(tmp_path, seed=0, size=32)
    assert list(found) == list(HEADS)
    assert all(one[figure] >= 0 for one in found.values() for figure in FIGURES)
    assert found["solve"]["loss"] < np.log(2)  # more than nothing was learnt
    assert "adam, dropout 0.5" in table({"size": 32, "seeds": [found], "summary": summary([found])})


def test_it_requires_the_default_to_be_as_good() -> None:
    each = {name: dict.fromkeys(FIGURES, 0.4) for name in HEADS}
    assert [holds for holds, _ in requirements({"summary": each})] == [True]
    better = each | {"adam, dropout 0.5": dict.fromkeys(FIGURES, 0.3)}
    assert [holds for holds, _ in requirements({"summary": better})] == [False]
