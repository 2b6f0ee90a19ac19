"""The table of epochs that a run shows and its manifest keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_fscore_support

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the table a run shows. Train figures are means over the epoch's own steps; epoch 0 is the start."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    validation_precision: float  # this and the next two: means over classes; a class never decided counts as 0
    validation_recall: float
    validation_f1: float
    learning_rate: float
    pictures_per_second: float | None = field(default=None, compare=False)  # no part of what was learnt


def row(
    epoch: int,
    train: tuple[float, float] | None,
    outputs: tuple[Floats, Ints],
    rate: float,
    speed: float | None = None,
    class_weights: Floats | None = None,
) -> Epoch:
    """A line from `train` (loss, accuracy) and validation `outputs` (logits [N, C], labels [N]).

    `class_weights` [C], those of the training loss, weight the validation loss too: it chooses what is kept.
    """
    logits, labels = outputs
    decided = logits.argmax(1)
    classes = list(range(logits.shape[1]))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, decided, labels=classes, average="macro", zero_division=0
    )
    loss, accuracy = train or (None, None)
    return Epoch(
        epoch,
        loss,
        accuracy,
        log_loss(logits, labels, class_weights),
        float((decided == labels).mean()),
        float(precision),
        float(recall),
        float(f1),
        rate,
        speed,
    )


def log_loss(logits: Floats, labels: Ints, class_weights: Floats | None = None) -> float:
    """Mean negative log likelihood of softmax(logits [N, C]), natural log; weighted by `class_weights` [C] if given."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    losses = log_sum - shifted[np.arange(len(labels)), labels]
    return float(np.average(losses, weights=None if class_weights is None else class_weights[labels]))


def best_epoch(rows: Sequence[Epoch]) -> int:
    """The epoch whose weights `fit` kept."""
    return min(rows, key=lambda row: row.validation_loss).epoch


def describe(row: Epoch) -> str:
    """One epoch in words."""
    train = "" if row.train_loss is None else f"train loss {row.train_loss:.4f} acc {row.train_accuracy:.4f}, "
    speed = "" if row.pictures_per_second is None else f", {row.pictures_per_second:.0f} pictures/s"
    return (
        f"epoch {row.epoch}: {train}validation loss {row.validation_loss:.4f} acc {row.validation_accuracy:.4f} "
        f"recall {row.validation_recall:.4f} F1 {row.validation_f1:.4f}{speed}"
    )


def as_table(rows: Sequence[Epoch]) -> list[dict[str, float | None]]:
    return [asdict(row) for row in rows]
