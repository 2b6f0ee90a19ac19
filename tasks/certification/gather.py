"""The evidence of a trained model: its outputs on every split, the head alone's, and what this machine shows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from serving.artifact import MODEL
from serving.predictor import Predictor
from tasks.data.dataset import Dataset, Subset, subset
from tasks.evaluation import outputs
from tasks.evaluation.evidence import Evidence, Machine, Pairs
from tasks.evaluation.metrics import Floats
from tasks.evaluation.outputs import Outputs
from tasks.export.export import Exported
from tasks.model.classifier import Checkpoint, load_classifier
from tasks.progress import Progress
from tasks.training.embed import Features, read_features
from tasks.training.pictures import logits_of

_TIMED = 30  # single pictures, for the latency


@dataclass(frozen=True, slots=True)
class Trained:
    """What the steps before made, to be certified under a model name."""

    name: str
    dataset: Dataset
    features: Features
    head: Checkpoint
    tuned: Checkpoint
    exported: Exported


def gather(trained: Trained, predictor: Predictor, test: Subset, pairs: Pairs | None, progress: Progress) -> Evidence:
    """Train and validation from the prepared arrays, test from the original bytes."""
    dataset = trained.dataset
    samples = {
        split: outputs.from_pixels(predictor, dataset, subset(dataset, split)).sample
        for split in ("train", "validation")
    }
    found = outputs.from_files(predictor, test, progress)
    return Evidence(
        classes=dataset.classes,
        grouped=dataset.grouped,
        samples={**samples, "test": found.sample},
        head_only=_head_only(trained, test),
        champion=pairs,
        size=(trained.exported.path / MODEL).stat().st_size,
        machine=Machine(*_parity(trained, test, found), _latencies(predictor, test)),
    )


def _parity(trained: Trained, test: Subset, found: Outputs) -> tuple[float, float]:
    """Largest differences between the trained network on prepared arrays and the exported file on original bytes.

    That of the logits is relative where they are larger than 1: float32 rounds in proportion.
    """
    logits = logits_of(load_classifier(trained.tuned), trained.dataset, test)
    probabilities = _softmax(logits / trained.exported.temperature)
    return (
        float(np.abs(probabilities - found.sample.probabilities).max()),
        float(np.abs(logits - found.logits).max() / max(1.0, float(np.abs(logits).max()))),
    )


def _latencies(predictor: Predictor, test: Subset) -> tuple[float, ...]:
    """Milliseconds from a picture's bytes to its answer, one at a time, after a warm-up."""
    pictures = [outputs.original_bytes(test, row) for row in range(min(_TIMED, len(test)))]
    times = []
    for data in [*pictures[:3], *pictures]:
        start = time.perf_counter()
        predictor.answer([predictor.read(data)])
        times.append((time.perf_counter() - start) * 1000)
    return tuple(times[-len(pictures) :])


def _head_only(trained: Trained, test: Subset) -> Floats:
    """Probabilities [n, C] of the head alone, on the cached features."""
    layer = load_classifier(trained.head).head
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return _softmax(read_features(trained.features)[test.rows].astype(np.float64) @ weight.T + bias)


def _softmax(logits: Floats) -> Floats:
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
