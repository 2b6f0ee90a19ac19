"""The predictor gives the same answers in every batch, on the device asked for, from unaltered models only."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.artifact import GOLDEN, MODEL, Artifact, Rule, Watch, golden_inputs, read
from serving.errors import ArtifactError, DeviceError, PictureError
from serving.predictor import Predictor, load_predictor
from serving.preprocess import Pixels
from serving.session import CPU, CUDA
from tests.conftest import Pipeline, needs_gpu, needs_no_gpu
from tests.serving.tiny import CLASSES, PREPROCESSING, SIDE, make_artifact, reseal, write_golden, write_model


@pytest.fixture(scope="module")
def predictor(pipeline: Pipeline) -> Predictor:
    return load_predictor(read(pipeline.certified.artifact), "cpu")


@pytest.fixture(scope="module")
def pixels(pipeline: Pipeline) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "artifact")


# --- the same answers whatever the batch ------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 32, 33])
def test_a_picture_is_answered_alike_in_every_batch(predictor: Predictor, pixels: Pixels, size: int) -> None:
    alone = np.concatenate([predictor.scores(pixels[i : i + 1])[0] for i in range(size)])
    together, logits = predictor.scores(pixels[:size])
    assert together.shape == logits.shape == (size, 3)
    assert together.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6, rtol=0)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


def test_pictures_differ(predictor: Predictor, pixels: Pixels) -> None:
    """The control: equal answers above are not those of a model that always says the same."""
    assert np.ptp(predictor.scores(pixels)[0], axis=0).max() > 1e-3


def test_no_pictures_no_scores(predictor: Predictor) -> None:
    probabilities, logits = predictor.scores(np.zeros((0, 32, 32, 3), np.uint8))
    assert probabilities.shape == logits.shape == (0, 3)


def test_an_answer_follows_the_rule_and_sorts_the_scores(pipeline: Pipeline, predictor: Predictor) -> None:
    pictures = sorted(pipeline.data.root.rglob("*.png"))[::20]
    rows = [predictor.read(path.read_bytes()) for path in pictures]
    answers = predictor.answer(rows)
    probabilities, _ = predictor.scores(np.stack(rows))
    decided = predictor.decide(probabilities)
    assert len({answer.label for answer in answers}) > 1
    for answer, row, label in zip(answers, probabilities, decided, strict=True):
        assert answer.label == predictor.classes[label]
        assert answer.probability == pytest.approx(row[label], abs=0)
        assert dict(answer.scores) == dict(zip(predictor.classes, row.tolist(), strict=True))
        values = [p for _, p in answer.scores]
        assert values == sorted(values, reverse=True)


def test_a_watched_class_is_decided_though_another_is_likelier(tmp_path: Path) -> None:
    watch = Watch(label="blue", threshold=0.05, metric="recall", wanted=0.9)
    predictor = load_predictor(make_artifact(tmp_path / "artifact", rule=Rule(watch=(watch,))), "cpu")
    orange = np.full((SIDE, SIDE, 3), (200, 100, 60), np.uint8)
    answer = predictor.answer([orange])[0]
    assert answer.label == "blue"
    assert answer.scores[0][0] == "red"
    assert answer.probability == dict(answer.scores)["blue"]


def test_what_cannot_be_read_is_refused_before_the_model(predictor: Predictor) -> None:
    with pytest.raises(PictureError):
        predictor.read(b"no picture")


def test_several_threads_may_share_a_predictor(predictor: Predictor, pixels: Pixels) -> None:
    expected = predictor.scores(pixels)[0]
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(predictor.scores, [pixels] * 16):
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


# --- the device asked for, and no other -------------------------------------------------------------


def test_cpu_and_what_it_says_of_itself(predictor: Predictor) -> None:
    assert (predictor.provider, predictor.device) == (CPU, "cpu")


@needs_no_gpu
def test_cuda_without_a_gpu_is_an_error_not_a_fallback(artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="device=cuda"):
        load_predictor(artifact, "cuda")


@needs_no_gpu
def test_auto_without_a_gpu_runs_on_the_cpu(artifact: Artifact) -> None:
    assert load_predictor(artifact, "auto").device == "cpu"


@needs_no_gpu
def test_a_driver_that_promises_more_than_it_holds_is_found_out(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime lists CUDA and falls back in silence; what the session really runs on decides."""
    monkeypatch.setattr("serving.session.gpu_count", lambda: 1)
    with pytest.raises(DeviceError):
        load_predictor(artifact, "cuda")


@pytest.mark.gpu
@needs_gpu
def test_cuda_gives_the_same_answers_on_the_gpu(pipeline: Pipeline, predictor: Predictor, pixels: Pixels) -> None:
    gpu = load_predictor(read(pipeline.certified.artifact), "cuda")
    assert (gpu.provider, gpu.device) == (CUDA, "cuda")
    np.testing.assert_allclose(gpu.scores(pixels)[0], predictor.scores(pixels)[0], atol=1e-2)


# --- only the model that was certified --------------------------------------------------------------


def test_an_untouched_artifact_loads(artifact: Artifact) -> None:
    assert load_predictor(reseal(artifact.path), "cpu").classes == CLASSES


def test_another_model_under_fitting_digests_is_refused(artifact: Artifact) -> None:
    write_model(artifact.path / MODEL, bias=0.01)
    with pytest.raises(ArtifactError, match="golden answers differ"):
        load_predictor(reseal(artifact.path), "cpu")


def golden(path: Path) -> dict[str, Any]:
    with np.load(path / GOLDEN) as file:
        return dict(file)


Change = Callable[[dict[str, Any]], dict[str, Any]]
TAMPERED: dict[str, Change] = {
    "other probabilities": lambda g: g | {"probabilities": g["probabilities"][::-1]},
    "a little off": lambda g: g | {"probabilities": g["probabilities"] + np.float32(1e-3)},
    "other logits": lambda g: g | {"logits": g["logits"] + 0.01},
    "NaN answers": lambda g: g | {"probabilities": np.full_like(g["probabilities"], np.nan)},
    "one NaN": lambda g: g | {"logits": np.where(np.eye(3) > 0, np.nan, g["logits"])},
    "infinite answers": lambda g: g | {"logits": np.full_like(g["logits"], np.inf)},
    "no pictures": lambda g: {name: array[:0] for name, array in g.items()},
    "one answer for all": lambda g: g | {"logits": g["logits"][:1]},
    "a number": lambda g: g | {"images": np.uint8(7)},
    "another size": lambda g: g | {"images": golden_inputs(2 * SIDE)},
    "floats": lambda g: g | {"images": g["images"].astype(np.float32)},
    "objects": lambda g: g | {"logits": np.array([{}], dtype=object)},
    "a missing array": lambda g: {name: array for name, array in g.items() if name != "logits"},
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_tampered_golden_answers_under_fitting_digests_are_refused(artifact: Artifact, change: Change) -> None:
    np.savez(artifact.path / GOLDEN, **change(golden(artifact.path)))
    with pytest.raises(ArtifactError, match="golden"):
        load_predictor(reseal(artifact.path), "cpu")


def test_golden_answers_that_are_no_archive_are_refused(artifact: Artifact) -> None:
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    for body in (b"", b"PK\x03\x04 broken", b"plain text", single.getvalue()):
        (artifact.path / GOLDEN).write_bytes(body)
        with pytest.raises(ArtifactError, match="golden"):
            load_predictor(reseal(artifact.path), "cpu")


def test_the_pipelines_golden_answers_are_checked_too(pipeline: Pipeline, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(pipeline.certified.artifact, place)
    arrays = golden(place)
    np.savez_compressed(place / GOLDEN, **arrays | {"probabilities": np.roll(arrays["probabilities"], 1, axis=1)})
    with pytest.raises(ArtifactError, match="golden answers differ"):
        load_predictor(reseal(place), "cpu")


def test_a_model_with_nan_weights_is_refused_even_if_its_golden_answers_agree(artifact: Artifact) -> None:
    write_model(artifact.path / MODEL, bias=float("nan"))
    write_golden(artifact.path)
    with pytest.raises(ArtifactError, match="golden answers differ by nan"):
        load_predictor(reseal(artifact.path), "cpu")


@pytest.mark.parametrize("classes", [2, 4])
def test_a_model_of_another_class_count_is_refused(tmp_path: Path, classes: int) -> None:
    model = write_model(tmp_path / MODEL, classes=classes)
    with pytest.raises(ArtifactError, match="outputs of 3 classes"):
        Predictor(model, CLASSES, PREPROCESSING, Rule(), "cpu")


def test_a_model_of_another_picture_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="export it again"):
        Predictor(write_model(tmp_path / MODEL, side=16), CLASSES, PREPROCESSING, Rule(), "cpu")


def test_a_model_without_the_outputs_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="export it again"):
        Predictor(write_model(tmp_path / MODEL, names="-renamed"), CLASSES, PREPROCESSING, Rule(), "cpu")


@pytest.mark.parametrize("body", [b"", b"not an onnx file", b"\x08\x09"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / MODEL).write_bytes(body)
    with pytest.raises(ArtifactError, match="onnxruntime says"):
        Predictor(tmp_path / MODEL, CLASSES, PREPROCESSING, Rule(), "cpu")


def test_a_real_picture_goes_through(predictor: Predictor) -> None:
    body = io.BytesIO()
    Image.new("RGB", (50, 40), "white").save(body, "PNG")
    assert predictor.answer([predictor.read(body.getvalue())])[0].label in predictor.classes
