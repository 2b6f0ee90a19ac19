"""What the tests of data share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_digits


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two classes of 16 digits that a test may change."""
    return write_digits(tmp_path / "own", (0, 1), 16)
