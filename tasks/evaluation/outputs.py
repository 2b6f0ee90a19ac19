"""What a predictor gives for pictures: from the prepared arrays, or from the original bytes as a server reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.artifact import Scores
from serving.errors import BadInput
from serving.predictor import Predictor
from serving.preprocess import Pixels
from tasks.data.dataset import Dataset, Subset, pixels
from tasks.data.reading import MAX_BYTES, Unreadable, read_regular
from tasks.evaluation.sample import Sample
from tasks.progress import Progress, silent

_FILES = 32  # decoded at once


@dataclass(frozen=True, slots=True)
class Outputs:
    """`sample` is at the served operating point; `logits` float32 [N, C] are those before the temperature."""

    sample: Sample
    logits: Scores


def from_pixels(predictor: Predictor, dataset: Dataset, part: Subset) -> Outputs:
    """Outputs on the prepared arrays; for train and validation, which nobody certifies."""
    images = pixels(dataset)
    return _outputs(predictor, part, (images[part.rows[i : i + 256]] for i in range(0, len(part), 256)))


def from_files(predictor: Predictor, part: Subset, progress: Progress = silent) -> Outputs:
    """Outputs on the original bytes, through the same decode as the HTTP route.

    Raises BadInput if a file is gone or no longer what was prepared.
    """

    def batches() -> Iterator[Pixels]:
        for start in range(0, len(part), _FILES):
            rows = range(start, min(start + _FILES, len(part)))
            yield np.stack([predictor.read(original_bytes(part, row)) for row in rows])
            progress(rows.stop, len(part), "pictures certified")

    return _outputs(predictor, part, batches())


def original_bytes(part: Subset, row: int) -> bytes:
    """A picture's file. Raises BadInput if it is not the one that was prepared."""
    path = part.paths[row]
    try:
        data, _ = read_regular(path, MAX_BYTES)
    except Unreadable as error:
        raise _changed(path, f"found that it {error}: run again") from None
    if hashlib.sha256(data).hexdigest() != part.digests[row]:
        raise _changed(path, "found other bytes: it changed during the run; run again")
    return data


def _changed(path: Path, found: str) -> BadInput:
    return BadInput(
        f"expected {path} as it was prepared, {found}", shared=f"expected a picture as it was prepared, {found}"
    )


def sample_of(part: Subset, probabilities: Scores, decided: np.ndarray) -> Sample:
    """A subset's pictures with what a model says of them."""
    return Sample(part.labels, probabilities, decided, part.digests, part.units, part.slices)


def _outputs(predictor: Predictor, part: Subset, batches: Iterable[Pixels]) -> Outputs:
    nothing = np.zeros((0, predictor.preprocessing.image_size, predictor.preprocessing.image_size, 3), np.uint8)
    parts = [predictor.scores(batch) for batch in batches] or [predictor.scores(nothing)]
    probabilities = np.concatenate([p for p, _ in parts])
    logits = np.concatenate([logits for _, logits in parts])
    return Outputs(sample_of(part, probabilities, predictor.decide(probabilities)), logits)
