"""What is gated is what is served: certify fails as soon as training and serving prepare pictures differently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from serving import preprocess
from serving.artifact import MODEL
from tasks.evaluation.certify import PARITY, Certified, read_evaluation
from tasks.export.onnx_file import write_onnx
from tasks.model.classifier import load_classifier
from tests.conftest import Pipeline, certify_again


def parity(certified: Certified) -> Any:
    return next(check for check in read_evaluation(certified)["checks"] if check["metric"] == "parity")


def test_the_exported_file_agrees_with_the_trained_network(pipeline: Pipeline) -> None:
    assert parity(pipeline.certified)["verdict"] == "PASSED"
    assert parity(pipeline.certified)["value"] < PARITY / 10


def test_another_resize_filter_when_serving_is_rejected(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "FILTER", Image.Resampling.NEAREST)
    certified = certify_again(pipeline, attempt=11)
    assert parity(certified)["verdict"] == "REJECTED"
    assert certified.verdict == "REJECTED"


def test_another_background_does_not_matter_without_transparency(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a constant that these pictures never meet changes nothing, so the test above can fail."""
    monkeypatch.setattr(preprocess, "FILL", (0, 0, 0))
    assert parity(certify_again(pipeline, attempt=12))["verdict"] == "PASSED"


def test_another_mean_inside_the_file_is_rejected(pipeline: Pipeline, tmp_path: Path) -> None:
    network = load_classifier(pipeline.tuned)
    with torch.no_grad():
        network.normalize.mean[0, 0] += 0.02 * 255
    write_onnx(tmp_path / MODEL, network, pipeline.exported.temperature, pipeline.preprocessing.image_size)
    for other in pipeline.exported.path.iterdir():
        if other.name != MODEL:
            (tmp_path / other.name).write_bytes(other.read_bytes())
    certified = certify_again(pipeline, attempt=13, exported=replace(pipeline.exported, path=tmp_path))
    assert parity(certified)["verdict"] == "REJECTED"
