"""The public test pictures that THAW_TEST_PICTURES names; they are not part of the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_FOLDER = os.environ.get("THAW_TEST_PICTURES")

needs_pictures = pytest.mark.skipif(_FOLDER is None, reason="THAW_TEST_PICTURES names no folder of test pictures")


def pictures(folder: str = "") -> Iterator[Path]:
    """Every file there; empty folders are an error, or a test would prove nothing."""
    assert _FOLDER is not None
    found = sorted(path for path in Path(_FOLDER, folder).rglob("*") if path.is_file())
    assert found, f"expected test pictures in {Path(_FOLDER, folder)}, found none"
    yield from found
