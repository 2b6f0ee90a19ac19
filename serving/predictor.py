"""Runs an artifact's ONNX file with onnxruntime, on the device that was asked for and no other."""

from __future__ import annotations

import ctypes
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from serving.artifact import GOLDEN, Artifact, Labels, Rule, Scores
from serving.errors import ArtifactError, DeviceError
from serving.preprocess import Pixels, Preprocessing, read_pixels
from serving.settings import Device

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
EXACT = 1e-4  # golden answers of float32 on a CPU; other precisions and processors round otherwise
INEXACT = 1e-2
BATCH = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one picture."""

    label: str
    probability: float  # of the decided label
    scores: tuple[tuple[str, float], ...]  # every class, likeliest first


class Predictor:
    """One loaded model file with the decode and the decision rule that go with it. Safe to call from several threads.

    Raises ArtifactError if the file does not load or has the wrong inputs or outputs; DeviceError if `device` is
    "cuda" and the session does not run on a GPU.
    """

    def __init__(
        self,
        model: Path,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        rule: Rule,
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        self.classes = classes
        self.preprocessing = preprocessing
        self.rule = rule
        self._session = _open_session(model, device, threads)
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != CUDA:
            raise DeviceError(f"expected {CUDA}, the session runs on {self.provider}: use device=cpu or auto")
        self._check_signature(model)

    @property
    def device(self) -> str:
        return "cuda" if self.provider == CUDA else "cpu"

    def scores(self, pixels: Pixels) -> tuple[Scores, Scores]:
        """`probabilities` and `logits`, float32 [N, C], for pixels uint8 [N, H, W, 3]; in batches of 32."""
        parts = [self._run(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        if not parts:
            empty = np.zeros((0, len(self.classes)), np.float32)
            return empty, empty
        return np.concatenate([p for p, _ in parts]), np.concatenate([logits for _, logits in parts])

    def decide(self, probabilities: Scores) -> Labels:
        """Class indices [N] at the served operating point."""
        return self.rule.decide(probabilities, self.classes)

    def read(self, data: bytes) -> Pixels:
        """A picture's bytes to the array this model takes, uint8 [H, W, 3]. Raises PictureError."""
        return read_pixels(data, self.preprocessing)

    def answer(self, pixels: Sequence[Pixels]) -> list[Answer]:
        """One answer per array that `read` gave."""
        probabilities, _ = self.scores(np.stack(pixels))
        labels = self.decide(probabilities)
        return [self._answer(row, int(label)) for row, label in zip(probabilities, labels, strict=True)]

    def _answer(self, row: Scores, label: int) -> Answer:
        order = np.argsort(-row, kind="stable")
        scores = tuple((self.classes[i], float(row[i])) for i in order)
        return Answer(self.classes[label], float(row[label]), scores)

    def _run(self, pixels: Pixels) -> tuple[Scores, Scores]:
        probabilities, logits = self._session.run(["probabilities", "logits"], {"images": pixels})
        return probabilities, logits

    def _check_signature(self, model: Path) -> None:
        inputs = {value.name: (value.type, value.shape[1:]) for value in self._session.get_inputs()}
        size = self.preprocessing.image_size
        expected = {"images": ("tensor(uint8)", [size, size, 3])}
        outputs = {value.name: (value.type, value.shape[1:]) for value in self._session.get_outputs()}
        wanted = ("tensor(float)", [len(self.classes)])
        if inputs != expected or any(outputs.get(name) != wanted for name in ("probabilities", "logits")):
            raise ArtifactError(
                f"{model}: expected input {expected} and outputs of {len(self.classes)} classes, "
                f"found {inputs} and {outputs}: export it again"
            )


def load_predictor(artifact: Artifact, device: Device = "auto", threads: int | None = None) -> Predictor:
    """The predictor of a verified artifact, after it gave its golden answers here. Raises as `Predictor` does."""
    contents = artifact.contents
    predictor = Predictor(artifact.model, contents.classes, contents.preprocessing, contents.rule, device, threads)
    images, probabilities, logits = _golden(artifact)
    found_probabilities, found_logits = predictor.scores(images)
    worst = np.max([_difference(found_probabilities, probabilities), _difference(found_logits, logits)])
    allowed = EXACT if (predictor.provider, contents.precision) == (CPU, "fp32") else INEXACT
    if not worst <= allowed:  # written so that a NaN on either side fails
        raise ArtifactError(
            f"{artifact.path}: golden answers differ by {worst:.3g}, expected at most {allowed:.3g} "
            f"on {predictor.provider}: the file or this runtime is not the one that was certified"
        )
    return predictor


def _golden(artifact: Artifact) -> tuple[Pixels, Scores, Scores]:
    """The golden inputs, probabilities and logits. Raises ArtifactError if they are not what this model takes."""
    path, size, classes = artifact.path / GOLDEN, artifact.contents.preprocessing.image_size, len(artifact.classes)
    try:
        with np.load(path) as golden:
            images, probabilities, logits = golden["images"], golden["probabilities"], golden["logits"]
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"expected golden answers in {path}, found {type(error).__name__}: {error}") from None
    count = len(images) if images.ndim else 0
    shapes = (images.shape[1:], probabilities.shape, logits.shape)
    if count == 0 or images.dtype != np.uint8 or shapes != ((size, size, 3), (count, classes), (count, classes)):
        raise ArtifactError(f"{path}: expected uint8 pictures of side {size} and {classes} scores each, found {shapes}")
    return images, probabilities, logits


def _difference(found: Scores, expected: Scores) -> float:
    """The largest difference; relative where values are larger than 1, as logits are."""
    with np.errstate(invalid="ignore"):  # infinities give NaN, which no tolerance allows
        return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


def gpu_count() -> int:
    """How many GPUs the CUDA driver offers this process; 0 without a driver. Loads nothing else."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name != "nt" else "nvcuda.dll")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    usable = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if usable else 0


def _open_session(model: Path, device: Device, threads: int | None) -> ort.InferenceSession:
    gpus = gpu_count() if device != "cpu" else 0
    if device == "cuda" and gpus == 0:
        raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use device=cpu or auto")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # a waiting session must not burn the cores that decode pictures
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [CPU]
    if gpus:
        ort.preload_dlls()
        # HEURISTIC: EXHAUSTIVE tunes again for each new batch size; float32 means float32, or parity would not hold
        providers = [
            (CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}),
            *([] if device == "cuda" else [CPU]),
        ]
    if device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(str(model), options, providers)
    except Exception as error:  # onnxruntime raises its own family of pybind exceptions
        text = " ".join(str(error).split())[:300]
        if device == "cuda":
            raise DeviceError(f"expected a session on the GPU, onnxruntime says: {text}") from None
        raise ArtifactError(f"expected {model} to load, onnxruntime says: {text}") from None
