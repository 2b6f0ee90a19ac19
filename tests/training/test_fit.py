"""The loop both phases share: schedule, guards, the best epoch kept, early stop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import log_loss as oracle_log_loss
from torch import Tensor, nn

from tasks.progress import silent
from tasks.training.fit import Recipe, TrainingError, balanced_weights, cosine_with_warmup, fit, log_loss
from tasks.training.table import Epoch, best_epoch

INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
LABELS = (INPUTS[:, 0] > 0).long()


def batches(_epoch: int, _first: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(INPUTS, 20), torch.split(LABELS, 20), strict=True)


def run(
    layer: nn.Linear, rate: float = 0.1, epochs: int = 8, patience: int = 99, labels: Tensor = LABELS
) -> tuple[Epoch, ...]:
    def outputs() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        with torch.inference_mode():
            return layer(INPUTS).double().numpy(), labels.numpy()

    def train_mode() -> None:
        layer.train()

    recipe = Recipe(epochs, 3, 0.1, 5.0, 0.0, patience, train_mode)
    return fit(layer, [{"params": list(layer.parameters()), "lr": rate}], batches, outputs, recipe, None, silent)


def test_it_learns_and_keeps_the_best_epoch() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    rows = run(layer)
    kept = log_loss(layer(INPUTS).detach().double().numpy(), LABELS.numpy())
    assert kept == min(row.validation_loss for row in rows)
    assert kept < rows[0].validation_loss / 2


def test_a_start_that_training_only_worsens_is_given_back() -> None:
    """Validation labels contradict the training labels, so every epoch is worse than the start."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    rows = run(layer, labels=1 - LABELS)
    assert best_epoch(rows) == 0
    assert not layer.weight.any()


def test_it_stops_when_validation_stalls() -> None:
    assert len(run(nn.Linear(4, 2), labels=1 - LABELS, epochs=50, patience=3)) == 1 + 3


def test_nothing_trainable_is_an_error() -> None:
    layer = nn.Linear(4, 2).requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing is unfrozen"):
        run(layer)


def test_a_loss_that_is_not_a_number_is_an_error() -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="finite validation loss"):
        run(layer)
    layer = nn.Linear(4, 2)

    def poisoned(_epoch: int, _first: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield INPUTS * float("inf"), LABELS

    recipe = Recipe(1, 1, 0.0, 5.0, 0.0, 9, lambda: None)
    start = lambda: (np.zeros((2, 2)), np.array([0, 1]))  # noqa: E731
    with pytest.raises(TrainingError, match="finite training loss"):
        fit(layer, [{"params": list(layer.parameters()), "lr": 0.1}], poisoned, start, recipe, None, silent)


def test_weights_that_stand_still_are_an_error() -> None:
    with pytest.raises(TrainingError, match="unchanged"):
        run(nn.Linear(4, 2), rate=1e-30)


def test_the_schedule_rises_then_falls_to_zero() -> None:
    shares = [cosine_with_warmup(step, 100, 0.1) for step in range(101)]
    assert shares[:10] == sorted(shares[:10]) and shares[9] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True) and shares[100] < 1e-9


def test_log_loss_agrees_with_scikit_learn() -> None:
    logits = np.random.default_rng(1).normal(size=(40, 3)) * 5
    labels = np.random.default_rng(2).integers(0, 3, 40)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert log_loss(logits, labels) == pytest.approx(oracle_log_loss(labels, shares, labels=[0, 1, 2]), abs=1e-9)


def test_balanced_weights_give_each_class_the_same_total() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    totals = balanced_weights(labels, 2).numpy() * np.bincount(labels)
    assert totals == pytest.approx([50, 50])
