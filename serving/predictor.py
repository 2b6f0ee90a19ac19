"""An artifact's ONNX file with the decode and the decision rule that go with it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.artifact import GOLDEN, Artifact, Labels, Rule, Scores
from serving.errors import ArtifactError
from serving.preprocess import FORMATS, Pixels, Preprocessing, read_pixels
from serving.session import BATCH, CPU, OUTPUTS, Session
from serving.settings import Device

EXACT = 1e-4  # golden answers of float32 on a CPU; other precisions and processors round otherwise
INEXACT = 1e-2


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one picture."""

    label: str
    probability: float  # of the decided label
    scores: tuple[tuple[str, float], ...]  # every class, likeliest first


class Predictor:
    """One loaded model file with the decode and the decision rule that go with it. Safe to call from several threads.

    Raises as `Session` does, and ArtifactError if the file has the wrong inputs or outputs.
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
        self._session = Session(model, device, threads)
        self.provider = self._session.provider
        self.device = self._session.device
        self._check_signature(model)
        self._session.warm(preprocessing.image_size)

    def scores(self, pixels: Pixels) -> tuple[Scores, Scores]:
        """`probabilities` and `logits`, float32 [N, C], for pixels uint8 [N, H, W, 3]; in batches of 32."""
        parts = [self._session.run(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        if not parts:
            empty = np.zeros((0, len(self.classes)), np.float32)
            return empty, empty
        return np.concatenate([p for p, _ in parts]), np.concatenate([logits for _, logits in parts])

    def decide(self, probabilities: Scores) -> Labels:
        """Class indices [N] at the served operating point."""
        return self.rule.decide(probabilities, self.classes)

    def read(self, data: bytes, formats: tuple[str, ...] = FORMATS) -> Pixels:
        """A picture's bytes to the array this model takes, uint8 [H, W, 3]. Raises PictureError."""
        return read_pixels(data, self.preprocessing, formats)

    def answer(self, pixels: Sequence[Pixels]) -> list[Answer]:
        """One answer per array that `read` gave."""
        probabilities, _ = self.scores(np.stack(pixels))
        labels = self.decide(probabilities)
        return [self._answer(row, int(label)) for row, label in zip(probabilities, labels, strict=True)]

    def _answer(self, row: Scores, label: int) -> Answer:
        order = np.argsort(-row, kind="stable")
        scores = tuple((self.classes[i], float(row[i])) for i in order)
        return Answer(self.classes[label], float(row[label]), scores)

    def _check_signature(self, model: Path) -> None:
        inputs, outputs = self._session.inputs(), self._session.outputs()
        size = self.preprocessing.image_size
        expected = {"images": ("tensor(uint8)", [size, size, 3])}
        wanted = ("tensor(float)", [len(self.classes)])
        if inputs != expected or any(outputs.get(name) != wanted for name in OUTPUTS):
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
