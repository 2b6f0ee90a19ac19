"""Predicting and serving load neither torch nor an orchestrator: they run on machines that have neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "prefect", "sklearn")


@pytest.mark.parametrize("module", ["serving.service", "flows.predict", "flows.show", "flows.release", "flows.cli"])
def test_what_a_server_imports(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_check_can_fail() -> None:
    code = f"import sys, tasks.training.fit; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout
