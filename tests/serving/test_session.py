"""A session gives onnxruntime's own numbers for every batch, and a model that cannot run is refused at loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.artifact import MODEL, Artifact, Rule
from serving.errors import ArtifactError
from serving.predictor import Predictor, load_predictor
from serving.preprocess import Pixels
from serving.session import BATCH, BUCKETS, OUTPUTS, Session, pad_to_bucket
from tests.serving.tiny import CLASSES, PREPROCESSING, SIDE, make_artifact, reseal, write_looking_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_looking_model(tmp_path / MODEL)


def noise(count: int) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


# --- padding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, BATCH + 1))
def test_padding_adds_black_pictures_up_to_the_next_bucket(count: int) -> None:
    pixels = noise(count)
    padded = pad_to_bucket(pixels)
    assert len(padded) == min(bucket for bucket in (1, 2, 4, 8, 16, 32) if bucket >= count)
    assert padded.dtype == np.uint8
    assert padded.shape[1:] == pixels.shape[1:]
    assert (padded[:count] == pixels).all()
    assert (padded[count:] == 0).all()


def test_what_fits_a_bucket_is_not_copied() -> None:
    for size in BUCKETS:
        pixels = noise(size)
        assert pad_to_bucket(pixels) is pixels


def test_the_largest_bucket_is_the_largest_batch() -> None:
    assert BUCKETS[-1] == BATCH
    assert sorted(BUCKETS) == list(BUCKETS)


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 32])
def test_a_session_gives_the_numbers_of_onnxruntime_itself(model: Path, count: int) -> None:
    pixels = noise(count)
    plain = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = plain.run(list(OUTPUTS), {"images": pixels})
    found = Session(model, "cpu", threads=1).run(pixels)
    for values, wanted in zip(found, expected, strict=True):
        assert values.dtype == np.float32
        assert values.shape == (count, len(CLASSES))
        np.testing.assert_allclose(values, wanted, atol=1e-6, rtol=0)
    assert np.ptp(found[0]) > 1e-3, "the control: not all the same"


def test_outputs_are_taken_by_name_not_by_place(tmp_path: Path, model: Path) -> None:
    pixels = noise(3)
    expected = Session(model, "cpu").run(pixels)
    body = onnx.load(model)
    names = list(body.graph.output)
    del body.graph.output[:]
    body.graph.output.extend(reversed(names))
    onnx.save(body, tmp_path / "turned.onnx")
    for values, wanted in zip(Session(tmp_path / "turned.onnx", "cpu").run(pixels), expected, strict=True):
        assert (values == wanted).all()


def test_pictures_need_not_lie_one_after_another_in_memory(model: Path) -> None:
    session, many = Session(model, "cpu"), noise(8)
    for view in (many[::2], many[:, ::-1], many[..., ::-1], np.asfortranarray(many)):
        for values, wanted in zip(session.run(view), session.run(np.ascontiguousarray(view)), strict=True):
            assert (values == wanted).all()


def test_answers_stay_when_the_next_batch_runs(model: Path) -> None:
    """They are the caller's own copy, not a view of the session's memory."""
    session = Session(model, "cpu")
    first = session.run(noise(4))[0]
    kept = first.copy()
    session.run(noise(5))
    assert (first == kept).all()


# --- models that load but do not run ------------------------------------------------------------------


def write_failing_model(path: Path) -> Path:
    """Inputs and outputs are as they must be, but it folds the pixels to a shape that no picture has."""
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["real", "shape"], ["folded"]),
        helper.make_node("ReduceMean", ["folded", "axes"], ["logits"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants: dict[str, Any] = {"shape": np.array([-1, 3, 7], np.int64), "axes": np.array([2], np.int64)}
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(CLASSES)]) for name in OUTPUTS],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_model_that_loads_but_cannot_run_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    model = write_failing_model(tmp_path / MODEL)
    ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])  # onnxruntime sees nothing wrong with it
    Session(model, "cpu")
    with pytest.raises(ArtifactError, match=r"to run, onnxruntime says: .*Reshape") as caught:
        Predictor(model, CLASSES, PREPROCESSING, Rule(), "cpu")
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "artifact")


def test_such_a_model_in_an_artifact_is_refused_too(artifact: Artifact) -> None:
    write_failing_model(artifact.model)
    with pytest.raises(ArtifactError, match="to run, onnxruntime says"):
        load_predictor(reseal(artifact.path), "cpu")
