"""The backbones benchmark: a backbone that fails is a row and an unmet requirement, and so is a file that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import backbones

NAMES = ("timm/resnet10t", "timm/convnext_atto")


def unmet(found: list[tuple[bool, str]]) -> list[str]:
    return [problem for holds, problem in found if not holds]


def fine(row: dict[str, Any], pictures: Path, home: Path) -> None:
    assert len(list(pictures.glob("*/*.png"))) == 24
    row.update(dict.fromkeys(backbones.STEPS, 1.25), millions=4.9, difference=2e-6)


def test_one_that_fails_does_not_hide_the_others(tmp_path: Path) -> None:
    def way(row: dict[str, Any], pictures: Path, home: Path) -> None:
        if row["backbone"] == NAMES[0]:
            with backbones.timed(row, "embed"):
                pass
            raise RuntimeError("no kernel\nfor | this")
        fine(row, pictures, home)

    figures = backbones.measure(tmp_path, NAMES, way)
    (problem,) = unmet(backbones.requirements(figures))
    assert problem == "timm/resnet10t to go the whole way, found RuntimeError: no kernel for | this"
    lines = backbones.table(figures).splitlines()
    assert "| timm/resnet10t | 32 | - | 0.0 | - | - | - | - | RuntimeError: no kernel for / this |" in lines
    assert any("| timm/convnext_atto | 32 | 4.9 | 1.2 |" in line and "2.0e-06" in line for line in lines)


@pytest.mark.parametrize(("difference", "holds"), [(0.0, True), (1e-3, True), (2e-3, False), (float("nan"), False)])
def test_a_file_that_differs_is_noticed(tmp_path: Path, difference: float, holds: bool) -> None:
    figures = backbones.measure(tmp_path, NAMES[:1], fine)
    figures["backbones"][0]["difference"] = difference
    assert (unmet(backbones.requirements(figures)) == []) == holds


def test_no_backbone_at_all_is_not_fine() -> None:
    assert unmet(backbones.requirements({"backbones": []}))


def test_a_step_that_raises_has_no_seconds() -> None:
    row: dict[str, Any] = {}
    with pytest.raises(OSError), backbones.timed(row, "head"):
        raise OSError
    assert not row
