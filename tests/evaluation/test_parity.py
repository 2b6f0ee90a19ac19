"""What is gated is what is served: certify fails as soon as training and serving prepare pictures differently."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from serving import preprocess
from serving.artifact import MODEL
from serving.preprocess import Pixels, Preprocessing
from tasks.certification.certify import Certified, read_evaluation
from tasks.evaluation import intervals
from tasks.evaluation.lines import PARITY
from tests.conftest import Pipeline, certify_again
from tests.evaluation.conftest import Rare, certify_rare

PROBABILITY, LOGIT = PARITY["fp32"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at an interval; the shared models are made before, with all of them."""
    monkeypatch.setattr(intervals, "RESAMPLES", 20)


def parity(certified: Certified) -> dict[str, Any]:
    """The two lines by name."""
    return {c["metric"]: c for c in read_evaluation(certified)["checks"] if c["metric"].startswith("parity")}


def refused_for_parity(certified: Certified) -> bool:
    """Both lines failed, the run with them, and both are named."""
    verdicts = [check["verdict"] for check in parity(certified).values()]
    named = [sentence.split(" on ")[0] for sentence in certified.failing]
    return verdicts == ["REJECTED"] * 2 and certified.verdict == "REJECTED" and {"parity", "parity_logits"} <= {*named}


def test_the_exported_file_agrees_with_the_trained_network(pipeline: Pipeline) -> None:
    found = parity(pipeline.certified)
    assert [check["verdict"] for check in found.values()] == ["PASSED", "PASSED"]
    assert 0 < found["parity"]["value"] < PROBABILITY / 10
    assert 0 < found["parity_logits"]["value"] < LOGIT / 10
    assert found["parity"]["n"] == 60, "every test picture"


def test_another_resize_filter_when_serving_is_rejected(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "FILTER", Image.Resampling.NEAREST)
    assert refused_for_parity(certify_again(pipeline, tmp_path))


def test_another_background_does_not_matter_without_transparency(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a constant that these pictures never meet changes nothing, so the others can fail."""
    monkeypatch.setattr(preprocess, "FILL", (0, 0, 0))
    assert [check["verdict"] for check in parity(certify_again(pipeline, tmp_path)).values()] == ["PASSED"] * 2


def with_another_mean(model: Path, target: Path) -> None:
    """The same file, but 0.02 more is subtracted from the red channel."""
    file = onnx.load(model)
    (subtract,) = [node for node in file.graph.node if node.op_type == "Sub" and "normalize.mean" in node.input]
    (mean,) = [numpy_helper.to_array(i) for i in file.graph.initializer if i.name == "normalize.mean"]
    shift = np.array([0.02 * 255, 0, 0], np.float32).reshape(1, 3, 1, 1)
    file.graph.initializer.append(numpy_helper.from_array(mean + shift, "another.mean"))
    subtract.input[1] = "another.mean"
    onnx.save(file, target)


def test_another_mean_inside_the_file_is_rejected(pipeline: Pipeline, tmp_path: Path) -> None:
    place = Path(shutil.copytree(pipeline.exported.path, tmp_path / "export"))
    with_another_mean(pipeline.exported.path / MODEL, place / MODEL)
    assert refused_for_parity(certify_again(pipeline, tmp_path, exported=replace(pipeline.exported, path=place)))


def test_channels_in_another_order_when_serving_are_rejected(
    rare: Rare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On orange pictures: grey ones are the same in any order."""
    assert [check["verdict"] for check in parity(rare.certified).values()] == ["PASSED"] * 2
    in_order = preprocess.to_pixels

    def swapped(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
        return in_order(image, preprocessing)[..., ::-1].copy()

    monkeypatch.setattr(preprocess, "to_pixels", swapped)
    assert refused_for_parity(certify_rare(rare.trained, tmp_path))
