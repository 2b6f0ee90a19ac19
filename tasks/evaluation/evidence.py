"""What is measured of a model: outputs on each split, at the served operating point and at argmax."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.artifact import Scores
from serving.errors import BadInput
from serving.predictor import Predictor
from serving.preprocess import Pixels
from tasks.data.dataset import Dataset, Subset, pixels
from tasks.evaluation import metrics, scores
from tasks.evaluation.metrics import Decisions
from tasks.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Outputs:
    """A predictor's outputs on one split: float32 [n, C], and the labels decided from them, int64 [n]."""

    probabilities: Scores
    logits: Scores
    decided: npt.NDArray[np.int64]


def from_pixels(predictor: Predictor, dataset: Dataset, part: Subset) -> Outputs:
    """Outputs on the prepared arrays; for train and validation, which nobody certifies."""
    images = pixels(dataset)
    return _outputs(predictor, (images[part.rows[i : i + 256]] for i in range(0, len(part), 256)))


def from_files(predictor: Predictor, part: Subset, progress: Progress = silent) -> Outputs:
    """Outputs on the original bytes, through the same decode as the HTTP route.

    Raises BadInput if a file is gone or no longer what was prepared.
    """

    def batches() -> Iterator[Pixels]:
        for start in range(0, len(part), 32):
            rows = range(start, min(start + 32, len(part)))
            yield np.stack([predictor.read(_bytes(part, row)) for row in rows])
            progress(rows.stop, len(part), "pictures certified")

    return _outputs(predictor, batches())


def decisions(part: Subset, decided: npt.NDArray[np.int64]) -> Decisions:
    return Decisions(part.labels, decided, part.units)


def figures(part: Subset, outputs: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """Metrics at the served operating point, with `argmax` holding the same at plain argmax."""
    at_argmax = outputs.probabilities.argmax(axis=1)
    return {
        **metrics.summary(part.labels, outputs.decided, classes),
        **_of_probabilities(part, outputs, classes),
        "argmax": metrics.summary(part.labels, at_argmax, classes),
    }


def _of_probabilities(part: Subset, outputs: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """Ranking and honesty of the probabilities, and their honesty before the temperature."""
    shifted = outputs.logits.astype(np.float64) - outputs.logits.max(axis=1, keepdims=True)
    raw = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    columns = [(outputs.probabilities[:, i], part.labels == i) for i in range(len(classes))]
    values = {
        "log_loss": metrics.log_loss(outputs.probabilities, part.labels),
        "brier": scores.brier(outputs.probabilities, part.labels),
        "calibration_error": scores.calibration_error(outputs.probabilities, part.labels),
        "calibration_error_before_temperature": scores.calibration_error(raw, part.labels),
        "macro_roc_auc": metrics.macro(tuple(scores.roc_auc(*column) for column in columns)),
    }
    return {
        **{name: metrics.as_json(value) for name, value in values.items()},
        "roc_auc": {c: metrics.as_json(scores.roc_auc(*column)) for c, column in zip(classes, columns, strict=True)},
        "pr_auc": {c: metrics.as_json(scores.pr_auc(*column)) for c, column in zip(classes, columns, strict=True)},
    }


def _outputs(predictor: Predictor, batches: Iterable[Pixels]) -> Outputs:
    nothing = np.zeros((0, predictor.preprocessing.image_size, predictor.preprocessing.image_size, 3), np.uint8)
    parts = [predictor.scores(batch) for batch in batches] or [predictor.scores(nothing)]
    probabilities = np.concatenate([p for p, _ in parts])
    return Outputs(probabilities, np.concatenate([logits for _, logits in parts]), predictor.decide(probabilities))


def _bytes(part: Subset, row: int) -> bytes:
    path = part.paths[row]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"expected {path} as it was prepared, it cannot be read ({error.strerror}): run again") from None
    if hashlib.sha256(data).hexdigest() != part.digests[row]:
        raise BadInput(f"expected {path} as it was prepared, found other bytes: it changed during the run; run again")
    return data
