"""Figures with one of them spoiled, to see that a program's requirements notice it."""

from __future__ import annotations

import copy
from typing import Any

Figures = dict[str, Any]
Found = list[tuple[bool, str]]


def spoiled(figures: Figures, place: str, value: Any) -> Figures:
    """A copy with another value at a place, e.g. `overload/goodput`."""
    changed = copy.deepcopy(figures)
    inner = changed
    *parents, last = place.split("/")
    for key in parents:
        inner = inner[key]
    assert last in inner, f"{place} is no figure"
    inner[last] = value
    return changed


def unmet(found: Found) -> list[str]:
    return [text for holds, text in found if not holds]
