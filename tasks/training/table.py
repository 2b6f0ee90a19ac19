"""The table of epochs that a run shows and its manifest keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the table a run shows. Train figures are means over the epoch's own steps; epoch 0 is the start."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    learning_rate: float


def best_epoch(rows: Sequence[Epoch]) -> int:
    """The epoch whose weights `fit` kept."""
    return min(rows, key=lambda row: row.validation_loss).epoch


def describe(row: Epoch) -> str:
    """One epoch in words."""
    train = "" if row.train_loss is None else f"train loss {row.train_loss:.4f} acc {row.train_accuracy:.4f}, "
    return f"epoch {row.epoch}: {train}validation loss {row.validation_loss:.4f} acc {row.validation_accuracy:.4f}"


def as_table(rows: Sequence[Epoch]) -> list[dict[str, float | None]]:
    return [asdict(row) for row in rows]
