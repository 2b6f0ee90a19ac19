"""Serving and local prediction start without the libraries of training and orchestration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "timm", "prefect", "sklearn", "onnx"}

MODULES = [
    "serving.service", "serving.predictor", "serving.store",
    "flows.cli", "flows.commands", "flows.failures", "flows.predict", "flows.serve", "flows.show", "flows.release",
]  # fmt: skip


def loaded_by(module: str) -> set[str]:
    """Top-level packages in a fresh process after that import."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_it_loads_neither_training_nor_orchestration(module: str) -> None:
    assert loaded_by(module) & HEAVY == set()


@pytest.mark.parametrize("module", ["serving.artifact", "serving.predictor", "serving.ledger"])
def test_bentoml_stays_behind_the_store_and_the_service(module: str) -> None:
    assert "bentoml" not in loaded_by(module)


def test_the_check_sees_what_is_loaded() -> None:
    """The control, with the lightest of the heavy ones and with the store's BentoML."""
    assert loaded_by("onnx.helper") & HEAVY == {"onnx"}
    assert "bentoml" in loaded_by("serving.store")
